// Follows the stream of a collection's changes: what changes becomes pending in the state, durably, and then an event.
//
// The stream is server-sent events ("Streaming from the REST API" of
// https://firebase.google.com/docs/reference/rest/database). It begins, each time that it is connected, with all that
// is there; what has the digest that is known is unchanged, and no event.
#pragma once

#include "common/io.h"
#include "common/listen_state.h"
#include "common/rtdb.h"
#include "common/source.h"

namespace inflight {

struct ListenOptions {
  std::uint64_t limit = 0;                      // events; 0: no limit
  Duration silence = std::chrono::seconds(90);  // without even a keep-alive, which comes each 30 s
};

// Until a stop signal, or the outlet has enough. Code::usage: the database did not let us in at all.
[[nodiscard]] Status listen(Io& io, RtdbCollection const& collection, RtdbClient& client, ListenOptions const& options,
                            ListenState& state, Outlet& outlet);

}  // namespace inflight
