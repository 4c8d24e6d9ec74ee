#include "common/rate_window.h"

#include <doctest/doctest.h>

namespace inflight {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_CASE("what is under way or was answered less than a second ago counts") {
  RateWindow window(3);
  Duration const begun = seconds(100);
  CHECK(window.due(3) == Duration::zero());
  window.started(2);
  CHECK(window.due() == Duration::zero());
  CHECK(window.due(2) == std::nullopt);
  window.answered(begun, 2);
  CHECK(window.due(2) == begun + seconds(1));
  window.started();
  CHECK(window.due() == begun + seconds(1));
  CHECK(window.due(3) == std::nullopt);
  window.answered(begun + milliseconds(500));
  CHECK(window.due(3) == begun + milliseconds(1500));
  CHECK(window.due(2) == begun + seconds(1));
}

TEST_CASE("what is more than a second may have goes alone") {
  RateWindow window(0.5);
  CHECK(window.due(2) == Duration::zero());
  window.started(2);
  CHECK(window.due() == std::nullopt);
  window.answered(seconds(1), 2);
  CHECK(window.due() == seconds(2));
}

TEST_CASE("no rate is no limit") {
  RateWindow window(0);
  window.started(1000);
  CHECK(window.due(1000) == Duration::zero());
}

}  // namespace inflight
