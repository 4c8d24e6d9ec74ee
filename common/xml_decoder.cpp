#include "common/xml_decoder.h"

#include <fmt/format.h>
#include <iconv.h>

#include <algorithm>
#include <cerrno>

namespace inflight {

namespace {

// How much of `text` is whole UTF-8 (RFC 3629); `bad` where it stops at something that is none, and not merely
// unfinished.
std::size_t utf8_prefix(std::string_view text, bool& bad) {
  std::size_t i = 0;
  bad = false;
  while (i < text.size()) {
    auto at = [&](std::size_t k) { return static_cast<unsigned char>(text[i + k]); };
    if (at(0) < 0x80) {
      ++i;
      continue;
    }
    unsigned const c = at(0);
    std::size_t const length = c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    std::size_t const there = std::min(length, text.size() - i);
    bad = length == 0;
    for (std::size_t k = 1; k < there && !bad; ++k) bad = (at(k) & 0xc0) != 0x80;
    if (!bad && there > 1) {
      bad = (c == 0xe0 && at(1) < 0xa0) || (c == 0xed && at(1) >= 0xa0) || (c == 0xf0 && at(1) < 0x90) ||
            (c == 0xf4 && at(1) >= 0x90);
    }
    if (bad || there < length) return i;
    i += length;
  }
  return i;
}

bool same_letters(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) { return (x | 0x20) == (y | 0x20); });
}

// The name in the encoding declaration of a document in ASCII letters; empty where there is none.
std::string_view declared_encoding(std::string_view head) {
  if (!head.starts_with("<?xml")) return {};
  head = head.substr(0, head.find("?>"));
  std::size_t at = head.find("encoding");
  if (at == std::string_view::npos) return {};
  at = head.find_first_of("\"'", at);
  if (at == std::string_view::npos) return {};
  std::size_t const end = head.find(head[at], at + 1);
  return end == std::string_view::npos ? std::string_view{} : head.substr(at + 1, end - at - 1);
}

}  // namespace

struct XmlDecoder::State {
  std::string held;  // not yet decoded
  std::string name;  // of the encoding, once it is known
  iconv_t converter = reinterpret_cast<iconv_t>(-1);

  [[nodiscard]] bool converts() const { return converter != reinterpret_cast<iconv_t>(-1); }

  Status choose() {
    struct Mark {
      std::string_view bytes;
      char const* name;
      std::size_t skip;
    };
    using namespace std::string_view_literals;
    // XML 1.0, appendix F. UTF-32 stands first: its little-endian mark begins as that of UTF-16.
    static constexpr Mark marks[] = {{"\x00\x00\xfe\xff"sv, "UTF-32BE", 4},
                                     {"\xff\xfe\x00\x00"sv, "UTF-32LE", 4},
                                     {"\xfe\xff"sv, "UTF-16BE", 2},
                                     {"\xff\xfe"sv, "UTF-16LE", 2},
                                     {"\xef\xbb\xbf"sv, "UTF-8", 3},
                                     {"\x00\x00\x00<"sv, "UTF-32BE", 0},
                                     {"<\x00\x00\x00"sv, "UTF-32LE", 0},
                                     {"\x00<\x00"sv, "UTF-16BE", 0},
                                     {"<\x00"sv, "UTF-16LE", 0}};
    for (Mark const& mark : marks) {
      if (!held.starts_with(mark.bytes)) continue;
      name = mark.name;
      held.erase(0, mark.skip);
      return mark.skip == 3 ? Status{} : open();
    }
    name = declared_encoding(held);
    if (name.empty() || same_letters(name, "utf-8")) return name = "UTF-8", Status{};
    for (std::string_view const wide : {"utf-16", "utf-32", "ucs-", "iso-10646-ucs"}) {
      if (same_letters(std::string_view(name).substr(0, wide.size()), wide)) {
        return Status::rejected(fmt::format("it declares {}, but its bytes are not", name));
      }
    }
    return open();
  }
  Status open() {
    bool const safe = name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-:") ==
                      std::string::npos;
    if (safe) converter = ::iconv_open("UTF-8", name.c_str());
    return converts() ? Status{} : Status::rejected(fmt::format("the encoding '{:.40}' is not known here", name));
  }

  Status convert(bool last, std::string& text) {
    char* in = held.data();
    std::size_t left = held.size();
    Status status;
    while (left > 0) {
      char buffer[4096];
      char* out = buffer;
      std::size_t room = sizeof buffer;
      std::size_t const done = ::iconv(converter, &in, &left, &out, &room);
      int const error = errno;
      text.append(buffer, sizeof buffer - room);
      if (done != static_cast<std::size_t>(-1) || error == E2BIG) continue;
      if (error == EILSEQ || last) status = Status::rejected(fmt::format("bytes that are not {}", name));
      break;
    }
    held.erase(0, held.size() - left);
    return status;
  }
};

XmlDecoder::XmlDecoder() : state_(std::make_unique<State>()) {}
XmlDecoder::~XmlDecoder() {
  if (state_->converts()) ::iconv_close(state_->converter);
}

Status XmlDecoder::decode(std::string_view bytes, bool last, std::string& text) {
  State& s = *state_;
  s.held.append(bytes);
  if (s.name.empty()) {
    bool const undecided = s.held.size() < 5 || (s.held.starts_with("<?xml") && s.held.size() < 1024 &&
                                                 s.held.find("?>") == std::string::npos);
    if (undecided && !last) return {};
    if (Status status = s.choose(); !status.ok()) return status;
  }
  if (s.converts()) return s.convert(last, text);
  bool bad = false;
  std::size_t const good = utf8_prefix(s.held, bad);
  text.append(s.held, 0, good);
  s.held.erase(0, good);
  return bad || (last && !s.held.empty()) ? Status::rejected("bytes that are not UTF-8") : Status{};
}

}  // namespace inflight
