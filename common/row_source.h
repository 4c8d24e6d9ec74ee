// All rows of a database into the outlet of a source, each with its key as its mark; again and again from behind the
// last one where the database fails for a while.
#pragma once

#include <string>

#include "common/io.h"
#include "common/keyed_rows.h"
#include "common/source.h"
#include "common/status.h"
#include "common/units.h"

namespace inflight {

// `name`: of the database, in messages. `give_up`: Code::temporary when it fails for so long; 0: never.
[[nodiscard]] Status read_rows(Io& io, KeyedRows& rows, std::string const& name, Duration give_up, Outlet& outlet);

// 0 is 10 minutes without a pipeline.
[[nodiscard]] Duration give_up_of(Duration asked, SourceOptions const& source);

}  // namespace inflight
