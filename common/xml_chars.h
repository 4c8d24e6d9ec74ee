// The characters of XML 1.0: which are allowed, which make a name, which are white space. Text is valid UTF-8.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace inflight {

// Beyond ASCII, name characters are those of XML 1.0 fourth edition (appendix B), which is what expat and libxml2's
// users know.
[[nodiscard]] bool is_xml_name_start(std::uint32_t code);
[[nodiscard]] bool is_xml_name(std::uint32_t code);

// Char, production 2, of references; UTF-8 has no surrogates.
[[nodiscard]] inline bool is_xml_char(std::uint32_t code) {
  return (code >= 0x20 || code == '\t' || code == '\n' || code == '\r') && code < 0x110000 &&
         (code < 0xd800 || code > 0xdfff) && code != 0xfffe && code != 0xffff;
}

// What is to be done at a byte; 0 is nothing.
using XmlTable = std::array<std::uint8_t, 256>;
[[nodiscard]] inline std::uint8_t of(XmlTable const& table, char c) { return table[static_cast<unsigned char>(c)]; }

// 1 where a closer look is needed: at one of `special`, at a control character (a NUL ends every text), and at 0xef,
// with which U+FFFE and U+FFFF begin.
[[nodiscard]] constexpr XmlTable xml_table(std::string_view special) {
  XmlTable table{};
  for (std::size_t c = 0; c < 0x20; ++c) table[c] = 1;
  for (char const c : special) table[static_cast<unsigned char>(c)] = 1;
  table[0xef] = 1;
  return table;
}

// 1: in a name, perhaps at its front; 2: in a name; 3: look at the character. 0: none.
inline constexpr XmlTable kXmlName = [] {
  XmlTable table{};
  for (std::size_t c = 0; c < 256; ++c) {
    bool const letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == ':';
    table[c] = letter ? 1 : (c >= '0' && c <= '9') || c == '-' || c == '.' ? 2 : c >= 0x80 ? 3 : 0;
  }
  return table;
}();

[[nodiscard]] inline bool is_xml_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

// The character that begins at `at`, and how many bytes it has.
[[nodiscard]] inline std::uint32_t code_at(char const* at, std::size_t& length) {
  auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(at[i])); };
  std::uint32_t const c = byte(0);
  length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
  if (length == 1) return c;
  std::uint32_t code = c & (0xffU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) code = code << 6 | (byte(i) & 0x3f);
  return code;
}

inline void append_code(std::string& out, std::uint32_t code) {
  auto put = [&](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) return put(code);
  if (code < 0x800) return put(0xc0 | code >> 6), put(0x80 | (code & 0x3f));
  if (code < 0x10000) return put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
}

}  // namespace inflight
