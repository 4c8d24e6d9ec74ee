#include "common/directory_store.h"

#include "common/open_store.h"
#include "tests/journal_support.h"

using namespace inflight;
using namespace inflight::test;

namespace {

std::unique_ptr<ObjectStore> open_store(Disk& disk, std::string const& folder) {
  auto store = open_directory_store(disk, folder, true);
  REQUIRE_MESSAGE(store.ok(), store.status().what());
  return std::move(*store);
}

std::vector<std::string> keys(ObjectStore& store, std::string const& from = "") {
  std::vector<std::string> found;
  REQUIRE(store.list(from, [&](ObjectStore::Object const& object) -> Result<bool> {
    found.push_back(object.key);
    return true;
  }));
  return found;
}

}  // namespace

TEST_CASE("object store: an object is put once, and never overwritten") {
  TempFolder temp;
  QuickDisk disk;
  auto store = open_store(disk, temp / "a/b");
  spit(temp / "one", "content");
  spit(temp / "two", "other");
  auto put = store->put("x/y/key", temp / "one");
  REQUIRE(put);
  CHECK(*put == ObjectStore::Put::created);
  put = store->put("x/y/key", temp / "one");
  REQUIRE(put);
  CHECK(*put == ObjectStore::Put::same);
  put = store->put("x/y/key", temp / "two");
  REQUIRE(put);
  CHECK(*put == ObjectStore::Put::different);
  CHECK(slurp(temp / "a/b/x/y/key") == "content");
  CHECK(slurp(temp / "one") == "content");
}

TEST_CASE("object store: put copies from another file system, also over what a killed copy left") {
  TempFolder temp;
  QuickDisk disk;
  TempFolder const other("/var/tmp");
  std::string const name = other / "file";
  std::string const content(3 << 20, 'c');
  spit(name, content);
  auto store = open_store(disk, temp / "a");
  std::filesystem::create_directories(temp / "a/x");
  spit(temp / "a/x/.key.part", std::string(5 << 20, 'z'));
  auto put = store->put("x/key", name);
  REQUIRE_MESSAGE(put.ok(), put.status().what());
  CHECK(*put == ObjectStore::Put::created);
  CHECK(slurp(temp / "a/x/key") == content);
  CHECK(keys(*store) == std::vector<std::string>{"x/key"});
  CHECK_FALSE(exists(temp / "a/x/.key.part"));
}

TEST_CASE("object store: after a failure at any of its steps put can be repeated") {
  for (std::uint64_t at = 1;; ++at) {
    TempFolder temp;
    FaultyDisk faulty(FaultyDisk::Fault::sync_once, at, at);
    auto opened = open_directory_store(faulty, temp / "a", true);
    auto store = opened ? std::move(*opened) : nullptr;
    spit(temp / "one", "content");
    if (store) {
      auto const put = store->put("x/y/key", temp / "one");
      CHECK(put.ok() == !faulty.struck());
      if (faulty.struck()) {
        auto const again = store->put("x/y/key", temp / "one");
        REQUIRE_MESSAGE(again.ok(), again.status().what());
      }
      CHECK(slurp(temp / "a/x/y/key") == "content");
    }
    if (!faulty.struck()) {
      CHECK(at > 4);  // the folders above it, and its own
      break;
    }
  }
}

TEST_CASE("object store: list is in the bytewise order of keys, from any key, and passes over hidden names") {
  TempFolder temp;
  QuickDisk disk;
  auto store = open_store(disk, temp / "a");
  spit(temp / "one", "content");
  std::vector<std::string> all = {"a-b", "a/b", "a/c/d", "a0", "date=1/hour=2/x", "date=1/hour=2/y", "date=2/hour=1/x"};
  for (std::string const& key : all) REQUIRE(store->put(key, temp / "one"));
  for (char const* hidden : {"a/a/.b/c", "a/a/.x"}) {
    std::filesystem::create_directories(temp / (std::string(hidden) + "d"));
    spit(temp / hidden, "no");
  }
  CHECK(keys(*store) == all);
  for (std::size_t i = 0; i < all.size(); ++i) {
    CHECK(keys(*store, all[i]) == std::vector(all.begin() + static_cast<std::ptrdiff_t>(i), all.end()));
  }
  CHECK(keys(*store, "date=1/hour=2/") == std::vector<std::string>(all.begin() + 4, all.end()));
  CHECK(keys(*store, "zzz").empty());
  int seen = 0;
  REQUIRE(store->list("", [&](ObjectStore::Object const&) -> Result<bool> { return ++seen < 2; }));
  CHECK(seen == 2);
}

TEST_CASE("object store: get gives the range that there is, find the size") {
  TempFolder temp;
  QuickDisk disk;
  auto store = open_store(disk, temp / "a");
  spit(temp / "one", "0123456789");
  REQUIRE(store->put("k", temp / "one"));
  std::string to(4, ' ');
  auto got = store->get("k", 3, to);
  REQUIRE(got);
  CHECK(*got == 4);
  CHECK(to == "3456");
  got = store->get("k", 8, to);
  REQUIRE(got);
  CHECK(*got == 2);
  CHECK(store->get("none", 0, to).status().code() == Code::usage);
  auto found = store->find("k");
  REQUIRE(found);
  REQUIRE(*found);
  CHECK((*found)->bytes == 10);
  found = store->find("none");
  REQUIRE(found);
  CHECK_FALSE(*found);
}

TEST_CASE("object store: what is no directory is the operator's mistake") {
  TempFolder temp;
  QuickDisk disk;
  spit(temp / "file", "");
  for (std::string const& name : {std::string("ftp://x"), std::string(), temp / "missing", temp / "file"}) {
    auto const store = open_object_store(disk, system_clock(), name, {});
    CHECK_MESSAGE(store.status().code() == Code::usage, name);
  }
}
