// XML to JSON by the convention of xmltodict: `@attribute`, `#text`, repeated elements an array, an empty element null.
//
// One pass over the text, which must be well-formed (XML 1.0, namespaces as written): anything else is Code::rejected
// with line and column. A DOCTYPE may stand there; what it declares is not read, so that declaring an entity is a
// rejection, too. The text is read where it is, or in pieces through a buffer: then only the record at hand is in
// memory.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/path.h"
#include "common/record.h"
#include "common/status.h"

namespace inflight {

class XmlJson {
 public:
  // Paths are those of elements, `/fleet/bsu`, or end in `/@attribute` or `/#text`; those of shape begin at the
  // record's element.
  struct Options {
    bool strip_ns = false;            // names without prefix, no xmlns
    bool infer = false;               // numbers in JSON's grammar, true and false without quotes
    std::string each;                 // a record is each element of this path, as if it were a document of its own
    std::vector<std::string> types;   // PATH=int|float|bool
    std::vector<std::string> arrays;  // elements that are arrays even where there is one
  };

  [[nodiscard]] static Result<XmlJson> make(Options const& options);
  ~XmlJson();
  XmlJson(XmlJson&&) noexcept;

  // Called for each record; only then write() and find() have an answer. Not ok ends the conversion with that status.
  using Take = std::function<Status()>;
  // Appends more text; false: that was the end. Code::rejected: bytes that have no text, told with their place.
  using Fill = std::function<Result<bool>(std::string& text)>;

  // Where one document's text is put (UTF-8, checked) before convert().
  [[nodiscard]] std::string& text();
  [[nodiscard]] Status convert(Take const& take);
  // The same in pieces: then only the record at hand is in memory. `limit` bounds, in bytes, one tag, comment or CDATA
  // section, without which nothing can be read on, and a record's text: one that has more is still given to `take`, but
  // write() rejects it.
  [[nodiscard]] Status convert(Fill const& fill, std::size_t limit, Take const& take);

  // Appends the record as a JSON object with one member, its element. Code::rejected: a value is not of its --type,
  // or the record is over `limit` or kMaxElements of xml_tree.h.
  [[nodiscard]] Status write(std::string& out);
  // What a JSON Pointer names in the record, as a JSON string; false where that is nothing, null, or no scalar.
  [[nodiscard]] bool find(Path const& path, std::string& quoted) const;
  // After what was asked of the record: its memory goes back.
  void forget();
  // The line on which the record at hand begins.
  [[nodiscard]] std::uint64_t line() const;

 private:
  struct State;
  explicit XmlJson(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inflight
