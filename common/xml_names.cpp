#include "common/xml_names.h"

#include <fmt/format.h>

#include <algorithm>

namespace inflight {

namespace {

bool is_name(std::string_view text) {
  for (std::size_t i = 0, length = 1; i < text.size(); i += length) {
    std::uint8_t const kind = of(kXmlName, text[i]);
    length = 1;
    bool good = kind == 1 || (kind == 2 && i > 0);
    if (kind == 3) {
      std::uint32_t const code = code_at(text.data() + i, length);
      good = i == 0 ? is_xml_name_start(code) : is_xml_name(code);
    }
    if (!good) return false;
  }
  return !text.empty();
}

}  // namespace

void XmlNames::begin_document() {
  if (bytes_ > kKeptBytes) names_.clear(), bytes_ = 0, trail_.clear();
  begin_record();
}

XmlName* XmlNames::find(std::string_view text) {
  if (auto const found = names_.find(text); found != names_.end()) return found->second.get();
  if (!is_name(text)) return nullptr;
  auto made = std::make_unique<XmlName>();
  XmlName* const name = made.get();
  name->text = text;
  name->key = fmt::format("\"@{}\":", text);
  name->local = name;
  name->declares_namespace = text == "xmlns" || text.starts_with("xmlns:");
  bytes_ += 2 * text.size() + sizeof(XmlName);
  names_.emplace(name->text, std::move(made));
  if (std::size_t const colon = text.rfind(':'); strip_ns_ && colon != std::string_view::npos) {
    if (XmlName* const local = find(std::string_view(name->text).substr(colon + 1))) name->local = local;
  }
  return name;
}

XmlStep XmlNames::read_other(XmlCursor& in, XmlName*& name) {
  char const* const from = in.at;
  while (of(kXmlName, *in.at) != 0) ++in.at;
  if (in.at == in.end && !in.whole) return XmlStep::more;
  name = find({from, static_cast<std::size_t>(in.at - from)});
  if (name == nullptr) {
    in.at = from;
    return in.fail("a name was expected here");
  }
  if (bytes_ > kMaxBytes) return in.fail_at(from, "too many different names");
  follow(name);
  return XmlStep::ok;
}

// The trail goes on behind this name, where it is near; else it is another one from here on.
void XmlNames::follow(XmlName* name) {
  constexpr std::size_t near = 16, longest = 1024;
  std::size_t const stop = std::min(trail_.size(), place_ + near);
  for (std::size_t i = place_; i < stop; ++i) {
    if (trail_[i] == name) return place_ = i + 1, void();
  }
  if (place_ < trail_.size()) {
    trail_[place_++] = name;
  } else if (place_ < longest) {
    trail_.push_back(name), ++place_;
  }
}

}  // namespace inflight
