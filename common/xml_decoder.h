// The bytes of an XML document as UTF-8.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"

namespace inflight {

// One document, piece by piece. A byte order mark decides, then the pattern of the first bytes (UTF-16 and UTF-32 in
// both orders; XML 1.0, appendix F), then the encoding that the document declares, by its name in iconv(3); else it is
// UTF-8.
class XmlDecoder {
 public:
  XmlDecoder();
  ~XmlDecoder();

  // Appends what `bytes` say. Code::rejected: they are not of the encoding, or it is unknown; what came before them
  // has been appended.
  [[nodiscard]] Status decode(std::string_view bytes, bool last, std::string& text);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace inflight
