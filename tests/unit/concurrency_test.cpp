#include "common/concurrency.h"

#include <doctest/doctest.h>

#include <functional>
#include <map>

using namespace inflight;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// A service on a clock of its own: how long an answer takes while so many are under way, or that it is refused.
struct Service {
  using Answer = Concurrency::Answer;
  struct Reply {
    Duration takes{};
    Answer answer = Answer::served;
  };
  std::function<Reply(std::size_t under_way)> serve;
  Concurrency concurrency;
  Duration now = seconds(1000);
  std::size_t served = 0, refused = 0, most = 0;
  std::size_t supply = SIZE_MAX;  // how many requests there are to make at once

  Service(std::size_t ceiling, std::function<Reply(std::size_t)> s) : serve(std::move(s)), concurrency(ceiling) {}

  void run(Duration time) {
    for (Duration const end = now + time; now < end;) {
      while (concurrency.may_start() && ends_.size() < supply) {
        concurrency.started();
        Reply const reply = serve(ends_.size() + 1);
        ends_.emplace(now + reply.takes, std::pair{now, reply.answer});
        most = std::max(most, ends_.size());
      }
      auto const first = ends_.begin();
      now = first->first;
      auto const [began, answer] = first->second;
      ends_.erase(first);
      concurrency.ended(answer, began, now);
      ++(answer == Answer::served ? served : refused);
    }
  }

 private:
  std::multimap<Duration, std::pair<Duration, Answer>> ends_;
};

}  // namespace

TEST_CASE("it starts at one, and reaches its ceiling where latency holds, never more") {
  Service service(32, [](std::size_t) { return Service::Reply{milliseconds(10)}; });
  CHECK(service.concurrency.limit() == 1);
  service.run(seconds(1));
  CHECK(service.concurrency.limit() == 32);
  service.run(seconds(100));
  CHECK(service.most == 32);
}

TEST_CASE("just below a hard limit it is at 80 % or more of the best, and refused seldom") {
  for (std::size_t const hard : {2U, 5U, 17U, 100U}) {
    CAPTURE(hard);
    Service service(256, [=](std::size_t under_way) {
      return under_way > hard ? Service::Reply{milliseconds(1), Concurrency::Answer::refused}
                              : Service::Reply{milliseconds(20)};
    });
    service.run(seconds(10));
    service.served = service.refused = 0;
    service.run(seconds(60));
    CHECK(service.served >= hard * 50 * 60 * 8 / 10);
    CHECK(service.refused < 20);
    CHECK(service.concurrency.limit() <= hard + 1);
  }
}

TEST_CASE("refusals of one moment halve it once") {
  Concurrency concurrency(64);
  Duration now = seconds(1);
  for (int round = 0; concurrency.limit() < 16; ++round) {
    std::size_t const limit = concurrency.limit();
    for (std::size_t i = 0; i < std::max<std::size_t>(limit, 5); i += limit) {
      for (std::size_t k = 0; k < limit; ++k) concurrency.started();
      Duration const began = now;
      now += milliseconds(5);
      for (std::size_t k = 0; k < limit; ++k) concurrency.ended(Concurrency::Answer::served, began, now);
    }
  }
  REQUIRE(concurrency.limit() == 16);
  for (int i = 0; i < 16; ++i) concurrency.started();
  for (int i = 0; i < 16; ++i) concurrency.ended(Concurrency::Answer::refused, now, now + milliseconds(5 + i));
  CHECK(concurrency.limit() == 8);
  CHECK(concurrency.under_way() == 0);
}

TEST_CASE("where answers take longer the more are under way it stays at about twice what the service can do at once") {
  Service service(256, [](std::size_t under_way) {
    return Service::Reply{milliseconds(20) * static_cast<int>(std::max<std::size_t>(under_way, 8)) / 8};
  });
  service.run(seconds(60));
  service.most = 0;
  service.run(seconds(3600));
  CHECK(service.concurrency.limit() >= 8);
  CHECK(service.most <= 20);
}

TEST_CASE("a service that has become slower for good is not held back for ever") {
  int each = 10;
  Service service(32, [&](std::size_t) { return Service::Reply{milliseconds(each)}; });
  service.run(seconds(10));
  each = 100;
  service.run(seconds(60));
  CHECK(service.concurrency.limit() == 1);
  service.run(seconds(600));
  CHECK(service.concurrency.limit() == 32);
}

TEST_CASE("it does not grow while there is less to ask for than may be asked") {
  Service service(256, [](std::size_t) { return Service::Reply{milliseconds(20)}; });
  service.supply = 3;
  service.run(seconds(60));
  CHECK(service.concurrency.limit() <= 4);
}

TEST_CASE("when a service was down it begins anew, and knows what was too much before") {
  bool down = false;
  Service service(64, [&](std::size_t under_way) {
    if (down) return Service::Reply{milliseconds(1), Concurrency::Answer::failed};
    return under_way > 5 ? Service::Reply{milliseconds(1), Concurrency::Answer::refused}
                         : Service::Reply{milliseconds(20)};
  });
  service.run(seconds(5));
  CHECK(service.concurrency.limit() == 5);
  down = true;
  service.run(seconds(1));
  CHECK(service.concurrency.limit() == 1);
  down = false;
  service.run(seconds(1));
  CHECK(service.concurrency.limit() == 5);
}

TEST_CASE("a service that can take more than before is asked for more") {
  std::size_t hard = 5;
  Service service(64, [&](std::size_t under_way) {
    return under_way > hard ? Service::Reply{milliseconds(1), Concurrency::Answer::refused}
                            : Service::Reply{milliseconds(20)};
  });
  service.run(seconds(60));
  CHECK(service.concurrency.limit() <= 6);
  hard = 50;
  service.run(seconds(600));
  CHECK(service.concurrency.limit() >= 40);
}
