// Follows the stream of a collection's changes: what changes becomes pending in the state, durably, and then an event.
//
// The stream is server-sent events ("Streaming from the REST API" of
// https://firebase.google.com/docs/reference/rest/database). It begins, each time that it is connected, with all that
// is there; what has the digest that is known is unchanged, and no event.
//
// Between the last moment until which the stream is known to be without a gap and that beginning a document may have
// changed and changed back. Who fetched it meanwhile has what nobody saw, so what may have been fetched then
// (fetches.h) is told once more: that event's document is fetched later. Such a moment is one at which the marks were
// taken a time of `silence` before something whole came from the database: what it had done by then was told by then.
#pragma once

#include <vector>

#include "common/fetches.h"
#include "common/io.h"
#include "common/listen_state.h"
#include "common/rtdb.h"
#include "common/source.h"

namespace inflight {

struct ListenOptions {
  std::uint64_t limit = 0;                      // events; 0: no limit
  Duration silence = std::chrono::seconds(90);  // without even a keep-alive, which comes each 30 s
  std::vector<Fetches> fetches;                 // by whom documents are fetched
};

// Until a stop signal, or the outlet has enough. Code::usage: the database did not let us in at all.
[[nodiscard]] Status listen(Io& io, RtdbCollection const& collection, RtdbClient& client, ListenOptions const& options,
                            ListenState& state, Outlet& outlet);

}  // namespace inflight
