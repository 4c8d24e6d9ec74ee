// The events of a poll: a reading, its payload untouched, or that the unit could not be reached.
#pragma once

#include <string>
#include <string_view>

#include "common/http_message.h"
#include "common/time.h"

namespace inflight {

struct PollEvent {
  std::string_view id;
  std::string_view source;  // the URL, without credentials
  std::string_view unit;
  Time recorded;
};

// One line each, without its newline: UTF-8 whatever the unit sent.
[[nodiscard]] std::string reading_event(PollEvent const& event, HttpResponse const& answer);
[[nodiscard]] std::string unreachable_event(PollEvent const& event, HttpResponse const& answer);

}  // namespace inflight
