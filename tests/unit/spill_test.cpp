#include "common/spill.h"

#include <doctest/doctest.h>

#include <compare>
#include <filesystem>
#include <random>

using namespace inflight;

namespace {

struct Entry {
  std::uint64_t key = 0, more = 0;
  auto operator<=>(Entry const&) const = default;
};

std::vector<Entry> random_entries(std::size_t count, std::uint64_t keys) {
  std::mt19937_64 random(count);
  std::vector<Entry> entries(count);
  for (Entry& entry : entries) entry = {random() % keys, random()};
  return entries;
}

std::vector<Entry> sorted(std::vector<Entry> const& entries, std::uint64_t memory) {
  ExternalSort<Entry> sort(temporary_folder(), memory);
  for (Entry const& entry : entries) REQUIRE(sort.add(entry).ok());
  REQUIRE(sort.sort().ok());
  std::vector<Entry> out;
  for (Entry entry;;) {
    auto more = sort.next(entry);
    REQUIRE(more.ok());
    if (!*more) break;
    out.push_back(entry);
  }
  Entry entry;
  CHECK_FALSE(*sort.next(entry));  // and stays at its end
  return out;
}

}  // namespace

TEST_CASE("Entries come in order, whatever fits into memory") {
  for (std::size_t const count : {0U, 1U, 2U, 1000U, 4096U, 4097U, 100'000U}) {
    for (std::uint64_t const keys : {1ULL, 10ULL, ~0ULL}) {
      auto entries = random_entries(count, keys);
      for (std::uint64_t const memory : {1ULL, 160ULL, 65'536ULL, 1ULL << 30}) {
        if (memory == 1 && count > 1000) continue;  // a run for each entry
        auto const out = sorted(entries, memory);
        auto wanted = entries;
        std::sort(wanted.begin(), wanted.end());
        CHECK_MESSAGE(out == wanted, count << " entries of " << keys << " keys in " << memory << " bytes");
      }
    }
  }
}

TEST_CASE("What was appended is read back, from the file, from memory and across") {
  SpillFile file(temporary_folder());
  std::string all;
  std::mt19937_64 random(1);
  while (all.size() < 5 << 20) {
    std::string const part(random() % 300'000, static_cast<char>('a' + random() % 26));
    REQUIRE(file.append(part).ok());
    all += part;
  }
  REQUIRE(file.size() == all.size());
  for (int i = 0; i < 200; ++i) {
    std::size_t const offset = i < 100 ? random() % all.size() : all.size() - 1 - random() % 1000;
    std::string part(random() % (all.size() - offset + 1), '\0');
    REQUIRE(file.read(part.data(), part.size(), offset).ok());
    CHECK(all.compare(offset, part.size(), part) == 0);
  }
  char byte = 0;
  CHECK_FALSE(file.read(&byte, 1, all.size()).ok());
}

TEST_CASE("A folder for temporary files is there and can be written to") {
  CHECK(check_temporary_folder(temporary_folder()).ok());
  CHECK(check_temporary_folder("/nowhere").code() == Code::usage);
  CHECK(check_temporary_folder("/proc").code() != Code::ok);
}

TEST_CASE("Nothing is left in the folder, not even while it sorts") {
  std::string folder = std::filesystem::temp_directory_path() / "inflight-spill-XXXXXX";
  REQUIRE(::mkdtemp(folder.data()) != nullptr);
  {
    ExternalSort<Entry> sort(folder, 1 << 20);
    for (Entry const& entry : random_entries(200'000, ~0ULL)) REQUIRE(sort.add(entry).ok());
    CHECK(std::filesystem::is_empty(folder));
  }
  CHECK(std::filesystem::is_empty(folder));
  std::filesystem::remove(folder);
}
