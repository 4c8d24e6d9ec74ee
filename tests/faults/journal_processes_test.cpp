// The journal under processes that write, read, are killed and remove at once.
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>

#include "tests/journal_support.h"

using namespace inflight;
using namespace inflight::test;

namespace {

constexpr std::uint64_t kPublishers = 3;
constexpr std::uint64_t kReaders = 2;
constexpr std::uint64_t kLines = 1'000'000;  // more than the victim comes to write

struct Shared {
  std::array<std::atomic<std::uint64_t>, kPublishers> acknowledged;  // lines, by publisher
  std::array<std::atomic<std::uint64_t>, kReaders> position;
  std::array<std::atomic<std::uint64_t>, kLines> behind;  // position behind the victim's line, as reader 0 met it
  std::atomic<bool> complete;
  std::atomic<std::uint64_t> end;
};

std::string line_of(std::uint64_t publisher, std::uint64_t n, bool large) {
  std::string text = fmt::format(R"({{"publisher":{},"n":{},"pad":")", publisher, n);
  text.append(large ? 20'000 + n % 1000 : n % 200, static_cast<char>('a' + n % 26));
  return text += "\"}";
}

// Publishes from what was acknowledged last on: lines that were committed though nobody said so are left out as
// doubles.
[[noreturn]] void publish(Shared& shared, std::string const& folder, std::uint64_t self, std::uint64_t total) {
  auto writer = JournalWriter::open(real_disk(), system_clock(), folder);
  if (!writer) ::_exit(10);
  bool const large = self == 0;
  std::uint64_t n = shared.acknowledged[self];
  while (n < total) {
    std::uint64_t const count = std::min<std::uint64_t>(total - n, large ? 100 : 1 + n % 40);
    std::vector<std::string> texts;
    for (std::uint64_t i = 0; i < count; ++i) texts.push_back(line_of(self, n + i, large));
    std::vector<JournalWriter::Line> lines;
    for (std::string const& text : texts) lines.push_back({text, true});
    auto const appended = writer->append(lines);
    if (!appended) {
      fmt::print(stderr, "publisher {}: {}\n", self, appended.status().what());
      ::_exit(11);
    }
    n += count;
    shared.acknowledged[self] = n;
  }
  ::_exit(0);
}

// Follows to the end; exits 0 only if every line of every publisher came once, whole and in order.
[[noreturn]] void follow(Shared& shared, std::string const& folder, std::uint64_t self) {
  auto const watch = journal_watch(folder);
  auto reader = JournalReader::open(folder, 0);
  if (!watch || !reader) ::_exit(20);
  std::array<std::uint64_t, kPublishers> next{};
  std::uint64_t position = 0;
  for (;;) {
    bool const complete = shared.complete;
    auto const event = reader->next();
    if (!event) {
      fmt::print(stderr, "reader {}: {}\n", self, event.status().what());
      ::_exit(21);
    }
    if (!*event) {
      if (complete && position == shared.end) break;
      pollfd look{watch->get(), POLLIN, 0};
      ::poll(&look, 1, 50);
      char drained[4096];
      while (::read(watch->get(), drained, sizeof drained) > 0) continue;
      continue;
    }
    if ((*event)->position != position) ::_exit(22);
    shared.position[self] = ++position;
    std::string const line((*event)->line);
    auto const publisher = static_cast<std::uint64_t>(line[13] - '0');
    if (publisher >= kPublishers || line != line_of(publisher, next[publisher], publisher == 0)) {
      fmt::print(stderr, "reader {}: at {}: expected line {} of {}: {}\n", self, position - 1,
                 publisher < kPublishers ? next[publisher] : 0, publisher, line.substr(0, 60));
      ::_exit(23);
    }
    if (self == 0 && publisher == 0) shared.behind[next[0]] = position;
    ++next[publisher];
  }
  for (std::uint64_t publisher = 0; publisher < kPublishers; ++publisher) {
    if (next[publisher] != shared.acknowledged[publisher]) ::_exit(24);
  }
  ::_exit(0);
}

int wait_for(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  return status;
}

// Nobody survives a test that fails.
struct Children {
  ~Children() {
    for (pid_t const pid : running) {
      ::kill(pid, SIGKILL);
      (void)wait_for(pid);
    }
  }
  template <typename Work>
  pid_t start(Work work) {
    pid_t const pid = ::fork();
    if (pid == 0) work();
    REQUIRE(pid > 0);
    running.insert(pid);
    return pid;
  }
  int wait(pid_t pid) {
    int const status = wait_for(pid);
    running.erase(pid);
    return status;
  }
  std::set<pid_t> running;
};

}  // namespace

TEST_CASE(
    "journal: three publishers, one of them killed again and again, two readers and a remover: each line once, whole") {
  char const* const text = std::getenv("FAULT_ROUNDS");
  std::uint64_t const kills = text != nullptr ? 10 * std::strtoull(text, nullptr, 10) : 15;
  std::mt19937_64 random(4711);
  TempFolder temp(std::filesystem::temp_directory_path());
  std::string const folder = temp / "j";
  REQUIRE(journal_create(real_disk(), folder));
  REQUIRE(journal_set(real_disk(), folder, small_segments(600'000)).ok());
  void* const memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  auto& shared = *new (memory) Shared{};

  Children children;
  std::vector<pid_t> readers;
  for (std::uint64_t i = 0; i < kReaders; ++i) readers.push_back(children.start([&] { follow(shared, folder, i); }));
  std::vector<pid_t> steady;
  for (std::uint64_t i = 1; i < kPublishers; ++i)
    steady.push_back(children.start([&] { publish(shared, folder, i, 3000); }));

  std::uint64_t removed = 0;
  auto remove = [&] {
    std::uint64_t least = shared.position[0];
    for (auto const& position : shared.position) least = std::min<std::uint64_t>(least, position);
    // What the victim was not told of must stay: its successor recognises it as doubles.
    std::uint64_t const told = shared.acknowledged[0];
    least = std::min<std::uint64_t>(least, told == 0 ? 0 : shared.behind[told - 1].load());
    auto const done = journal_remove(real_disk(), folder, least, system_clock().now());
    REQUIRE_MESSAGE(done.ok(), done.status().what());
    removed += *done;
  };
  std::uint64_t killed = 0;
  // A slow machine gives the victim more time, until it has come to write something.
  while (killed < kills || shared.acknowledged[0] < 300) {
    pid_t const victim = children.start([&] { publish(shared, folder, 0, kLines); });
    ::usleep(static_cast<useconds_t>(2000 + random() % (25'000 * (1 + killed / kills))));
    REQUIRE(::kill(victim, SIGKILL) == 0);
    int const status = children.wait(victim);
    REQUIRE(WIFSIGNALED(status));
    ++killed;
    remove();
  }
  // The victim's last lines may be committed though it was never told so: its successor is.
  pid_t const last = children.start([&] { publish(shared, folder, 0, shared.acknowledged[0] + 300); });
  CHECK(children.wait(last) == 0);
  for (pid_t const pid : steady) CHECK(children.wait(pid) == 0);
  remove();
  auto const span = journal_span(folder);
  REQUIRE(span);
  shared.end = span->end;
  shared.complete = true;
  for (pid_t const pid : readers) CHECK(children.wait(pid) == 0);
  CHECK(shared.acknowledged[1] == 3000);
  CHECK(shared.acknowledged[0] + 6000 == span->end);
  CHECK(shared.acknowledged[0] > 300);
  CHECK(removed > 0);
  ::munmap(memory, sizeof(Shared));
}
