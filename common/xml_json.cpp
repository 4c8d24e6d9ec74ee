#include "common/xml_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>

#include "common/xml_text.h"

namespace inflight {

namespace {

enum class Type : std::uint8_t { none, integer, real, boolean };
constexpr std::string_view kTypeNames[] = {"", "int", "float", "bool"};

// --type and --array as a tree of names; 0 is nothing, 1 the root.
struct Shape {
  std::string step;
  Type type = Type::none;
  bool array = false;
  std::vector<std::uint32_t> children;
};

// A name that was met, checked once; kept from document to document.
struct Symbol {
  std::string name;                 // as in the XML
  std::string key;                  // `"@name":`
  Symbol* local = nullptr;          // what it is in JSON: itself, or the name without prefix
  Symbol* next = nullptr;           // what followed it last: a good guess
  bool declares_namespace = false;  // xmlns, xmlns:x
  std::uint64_t stamp = 0;          // of the element whose children are being grouped
  std::uint32_t tail = 0;           // the last child of that name there
  std::uint64_t attribute_stamp = 0;
  std::uint64_t key_stamp = 0;
};

struct Attribute {
  Symbol* name = nullptr;
  std::uint32_t begin = 0, end = 0;
  bool with_prefix = false;  // --strip-ns would have made two of the same name
  Type type = Type::none;
};

// A piece of an element's text, escaped for JSON; children and comments cut it in pieces.
struct Piece {
  std::uint32_t begin = 0, end = 0, next = 0;
};

// An element; 0 is none.
struct Node {
  Symbol* name = nullptr;
  std::uint32_t first_attribute = 0, attributes = 0;
  std::uint32_t first_child = 0;  // the first of each name, in the order of their first appearance
  std::uint32_t next = 0;         // the next of these
  std::uint32_t next_same = 0;    // the next of the same name
  std::uint32_t first_piece = 0, last_piece = 0;
  std::uint32_t shape = 0;
  bool array = false;
};

struct Frame {
  Symbol* name = nullptr;  // as in the XML, for the end tag
  std::uint32_t node = 0;  // 0: outside of every record
  std::uint32_t last_child = 0;
  std::uint32_t piece = 0;        // the last one
  std::uint32_t solid_piece = 0;  // the last one that is not all white space, and where that ends in it
  std::uint32_t solid_end = 0;
};

enum class Step { ok, more, bad };

// What a byte may need in character data: 0 nothing, 1 a closer look.
using Table = std::array<std::uint8_t, 256>;
constexpr Table table(std::string_view special) {
  Table t{};
  for (std::size_t c = 0; c < 0x20; ++c) t[c] = 1;
  for (char const c : special) t[static_cast<unsigned char>(c)] = 1;
  t[0xef] = 1;  // U+FFFE and U+FFFF begin so
  return t;
}
constexpr Table kText = table("<&]\"\\");
constexpr Table kCdata = table("\"\\");
constexpr Table kDoubleQuoted = table("<&\"\\");
constexpr Table kSingleQuoted = table("<&'\"\\");
// 1: in a name, perhaps at its front; 2: in a name; 3: look at the character. 0: none.
constexpr Table kName = [] {
  Table t{};
  for (std::size_t c = 0; c < 256; ++c) {
    bool const letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == ':';
    t[c] = letter ? 1 : (c >= '0' && c <= '9') || c == '-' || c == '.' ? 2 : c >= 0x80 ? 3 : 0;
  }
  return t;
}();

std::uint8_t of(Table const& t, char c) { return t[static_cast<unsigned char>(c)]; }
bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

// Of valid UTF-8.
std::uint32_t code_at(char const* at, std::size_t& length) {
  auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(at[i])); };
  std::uint32_t const c = byte(0);
  length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
  if (length == 1) return c;
  std::uint32_t code = c & (0xffU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) code = code << 6 | (byte(i) & 0x3f);
  return code;
}

void append_code(std::string& out, std::uint32_t code) {
  auto put = [&](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) return put(code);
  if (code < 0x800) return put(0xc0 | code >> 6), put(0x80 | (code & 0x3f));
  if (code < 0x10000) return put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
}

// White space beyond ASCII that python's strip(), and so the convention, takes off.
bool is_wide_space(std::uint32_t code) {
  return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
         code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

std::string_view left_trimmed(std::string_view text) {
  while (!text.empty()) {
    std::size_t length = 1;
    auto const c = static_cast<unsigned char>(text[0]);
    if (c != ' ' && (c < 0xc2 || !is_wide_space(code_at(text.data(), length)))) break;
    text.remove_prefix(length);
  }
  return text;
}

std::string_view right_trimmed(std::string_view text) {
  while (!text.empty()) {
    std::size_t length = 1;
    auto const c = static_cast<unsigned char>(text.back());
    if (c < 0x80) {
      if (c != ' ') break;
    } else {
      char const* front = text.data() + text.size() - 1;
      while ((static_cast<unsigned char>(*front) & 0xc0) == 0x80) --front;
      if (!is_wide_space(code_at(front, length))) break;
    }
    text.remove_suffix(length);
  }
  return text;
}

Result<Path> element_path(std::string_view text, char const* option) {
  auto path = Path::parse(text);
  if (!path) return path.status().at(option);
  bool const steps_named =
      std::none_of(path->steps().begin(), path->steps().end(), [](std::string const& s) { return s.empty(); });
  if (!path->in_data() || !steps_named)
    return Status::usage(fmt::format("{} '{}': a path is /element/element", option, text));
  return path;
}

}  // namespace

struct XmlJson::State {
  Options options;
  std::vector<Shape> shapes{2};
  std::vector<std::string> each;

  std::unordered_map<std::string_view, std::unique_ptr<Symbol>> symbols;
  std::size_t symbol_bytes = 0;
  Symbol* guess = nullptr;  // the name before
  Symbol none;              // before the first name

  std::string buffer;
  char const* at = nullptr;
  char const* end = nullptr;
  char const* token = nullptr;  // what is not yet done with begins here
  bool whole = true;            // no more text will come
  Fill const* fill = nullptr;
  std::size_t limit = 0;
  std::uint64_t lines = 1, columns = 1;  // where the buffer begins

  std::vector<Node> nodes;
  std::vector<Attribute> attributes;
  std::vector<Piece> pieces;
  std::string escaped;
  std::vector<Frame> frames;
  std::size_t bound = 0;  // of what write() will write besides `escaped`
  std::uint64_t stamp = 0;
  bool begun = false, had_root = false, had_doctype = false;
  std::size_t matched = 0;  // steps of `each` that are open
  bool parent_seen = false;
  std::uint64_t taken = 0;
  std::uint64_t record_line = 1;
  std::string last_declaration;
  Take const* take = nullptr;
  Status error;

  char* write_at = nullptr;
  std::string joined;

  // Where we are.

  void count(char const* from, char const* to, std::uint64_t& line, std::uint64_t& column) const {
    for (; from < to; ++from) {
      if (*from == '\n' || (*from == '\r' && !(from + 1 < end && from[1] == '\n'))) {
        ++line, column = 1;
      } else {
        column += (static_cast<unsigned char>(*from) & 0xc0) != 0x80 ? 1 : 0;
      }
    }
  }
  Step fail_at(char const* place, std::string_view what) {
    std::uint64_t line = lines, column = columns;
    count(buffer.data(), place, line, column);
    error = Status::rejected(fmt::format("line {}, column {}: {}", line, column, what));
    return Step::bad;
  }
  Step fail(std::string_view what) { return at == end ? ended() : fail_at(at, what); }
  // At the NUL behind the text, or at one in it.
  Step ended() {
    if (at < end) return bad_character();
    if (!whole) return Step::more;
    return fail_at(at, frames.empty() ? "the document ends too early"
                                      : fmt::format("the document ends inside of <{}>", frames.back().name->name));
  }
  Step bad_character() {
    std::size_t length = 0;
    return fail_at(at, fmt::format("U+{:04X} is not allowed in XML", code_at(at, length)));
  }
  // At a byte below 0x20 that is no white space, or at 0xef. Moves on behind a character that is allowed.
  Step check_character() {
    if (static_cast<unsigned char>(*at) != 0xef) return ended();
    if (static_cast<unsigned char>(at[1]) == 0xbf && static_cast<unsigned char>(at[2]) >= 0xbe) return bad_character();
    at += 3;
    return Step::ok;
  }
  bool space() {
    char const* const from = at;
    while (is_space(*at)) ++at;
    return at > from;
  }
  [[nodiscard]] bool starts(std::string_view text) const {
    return std::string_view(at, static_cast<std::size_t>(end - at)).starts_with(text);
  }
  // Too near to the end to tell whether `text` stands here.
  [[nodiscard]] bool cut(std::string_view text) const {
    std::string_view const rest(at, static_cast<std::size_t>(end - at));
    return !whole && rest.size() < text.size() && text.starts_with(rest);
  }
  // Moves to the first `text` from here on, over characters that are allowed.
  Step find_text(std::string_view text) {
    static constexpr Table special = table("");
    for (char const* const from = at;;) {
      auto const* found =
          static_cast<char const*>(::memmem(at, static_cast<std::size_t>(end - at), text.data(), text.size()));
      char const* const to = found != nullptr ? found : end;
      while (at < to) {
        if (of(special, *at) == 0 || is_space(*at)) {
          ++at;
        } else if (Step const step = check_character(); step != Step::ok) {
          return step;
        }
      }
      if (found != nullptr) return Step::ok;
      at = whole ? end : from;
      return whole ? ended() : Step::more;
    }
  }

  // Names.

  Symbol* intern(std::string_view name) {
    if (auto const found = symbols.find(name); found != symbols.end()) return found->second.get();
    for (std::size_t i = 0, length = 1; i < name.size(); i += length) {
      std::uint8_t const kind = of(kName, name[i]);
      length = 1;
      bool good = kind == 1 || (kind == 2 && i > 0);
      if (kind == 3) {
        std::uint32_t const code = code_at(name.data() + i, length);
        good = i == 0 ? is_xml_name_start(code) : is_xml_name(code);
      }
      if (!good) return nullptr;
    }
    auto symbol = std::make_unique<Symbol>();
    symbol->name = name;
    symbol->key = fmt::format("\"@{}\":", name);
    symbol->local = symbol.get();
    symbol->declares_namespace = name == "xmlns" || name.starts_with("xmlns:");
    symbol_bytes += 2 * name.size() + sizeof(Symbol);
    Symbol* const result = symbol.get();
    symbols.emplace(result->name, std::move(symbol));
    if (std::size_t const colon = name.rfind(':');
        options.strip_ns && colon != std::string_view::npos && colon + 1 < name.size()) {
      if (Symbol* const local = intern(std::string_view(result->name).substr(colon + 1))) result->local = local;
    }
    return result;
  }
  // The name here. One that ends where the text does may go on.
  Step name(Symbol*& symbol) {
    if (Symbol* const likely = guess->next) {
      std::size_t const size = likely->name.size();
      if (static_cast<std::size_t>(end - at) > size && std::memcmp(at, likely->name.data(), size) == 0 &&
          of(kName, at[size]) == 0) {
        at += size;
        symbol = guess = likely;
        return Step::ok;
      }
    }
    char const* const from = at;
    while (of(kName, *at) != 0) ++at;
    if (at == end && !whole) return Step::more;
    symbol = at == from ? nullptr : intern({from, static_cast<std::size_t>(at - from)});
    if (symbol == nullptr) {
      at = from;
      return at == end ? ended() : fail_at(at, "a name was expected here");
    }
    if (symbol_bytes > (std::size_t{32} << 20)) return fail_at(from, "too many different names");
    guess->next = symbol;
    guess = symbol;
    return Step::ok;
  }

  // The text of the open element.

  [[nodiscard]] bool keeps() const { return !frames.empty() && frames.back().node != 0; }
  // Appends what is escaped already; its first `solid` bytes are what is left without white space at its end.
  void add(std::string_view text, std::size_t solid) {
    Frame& frame = frames.back();
    auto const begin = static_cast<std::uint32_t>(escaped.size());
    escaped.append(text);
    auto const after = static_cast<std::uint32_t>(escaped.size());
    if (frame.piece != 0 && pieces[frame.piece].end == begin) {
      pieces[frame.piece].end = after;
    } else {
      auto const piece = static_cast<std::uint32_t>(pieces.size());
      pieces.push_back({begin, after, 0});
      if (frame.piece == 0) {
        nodes[frame.node].first_piece = piece;
      } else {
        pieces[frame.piece].next = piece;
      }
      frame.piece = piece;
    }
    if (solid > 0) {
      frame.solid_piece = frame.piece;
      frame.solid_end = begin + static_cast<std::uint32_t>(solid);
    }
  }
  void add_plain(std::string_view text) {
    if (!keeps()) return;
    if (frames.back().piece == 0) text = left_trimmed(text);
    if (!text.empty()) add(text, right_trimmed(text).size());
  }
  // A character that JSON escapes.
  void add_escape(char c) {
    if (!keeps()) return;
    if (c == '"' || c == '\\') {
      char const text[] = {'\\', c};
      add({text, 2}, 2);
    } else if (frames.back().piece != 0) {
      add(c == '\n' ? "\\n" : c == '\t' ? "\\t" : "\\r", 0);
    }
  }

  // `&…;`. Where it is one of ours, `code` is its character.
  Step reference(std::uint32_t& code) {
    char const* const from = at++;
    auto wrong = [&](std::string_view what) {
      if (at == end && !whole) return at = from, Step::more;
      return fail_at(from, what);
    };
    if (*at == '#') {
      ++at;
      bool const hex = *at == 'x';
      at += hex ? 1 : 0;
      char const* const digits = at;
      code = 0;
      for (;; ++at) {
        char const c = *at;
        unsigned digit = 16;
        if (c >= '0' && c <= '9') digit = static_cast<unsigned>(c - '0');
        if (hex && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')))
          digit = static_cast<unsigned>((c | 0x20) - 'a') + 10;
        if (digit == 16) break;
        code = std::min(code * (hex ? 16 : 10) + digit, 0x110000U);
      }
      if (*at != ';' || at == digits) return wrong("a & that begins no reference");
      bool const allowed = (code >= 0x20 || code == '\t' || code == '\n' || code == '\r') && code < 0x110000 &&
                           (code < 0xd800 || code > 0xdfff) && code != 0xfffe && code != 0xffff;
      if (!allowed) return fail_at(from, "a reference to a character that is not allowed in XML");
      ++at;
      return Step::ok;
    }
    char const* const begin = at;
    while (of(kName, *at) != 0) ++at;
    std::string_view const entity(begin, static_cast<std::size_t>(at - begin));
    if (*at != ';' || entity.empty()) return wrong("a & that begins no reference");
    ++at;
    code = entity == "lt"     ? '<'
           : entity == "gt"   ? '>'
           : entity == "amp"  ? '&'
           : entity == "quot" ? '"'
           : entity == "apos" ? '\''
                              : 0;
    return code != 0 ? Step::ok
                     : fail_at(from, fmt::format("the entity &{:.40}; is not known: no DTD is read", entity));
  }

  // Character data up to the next markup or the end of the text.
  Step text() {
    if (frames.empty()) {
      space();
      token = at;
      return *at == '<' || at == end
                 ? Step::ok
                 : fail_at(at, had_root ? "text behind the root element" : "text before the root element");
    }
    if (frames.back().piece == 0) space();  // in front: nothing of it will stay
    for (char const* run = at;;) {
      while (of(kText, *at) == 0) ++at;
      if (static_cast<unsigned char>(*at) == 0xef) {
        if (Step const step = check_character(); step != Step::ok) return step;
        continue;
      }
      if (at > run) add_plain({run, static_cast<std::size_t>(at - run)});
      token = run = at;
      switch (*at) {
        case '<':
          return Step::ok;
        case '&': {
          std::uint32_t code = 0;
          if (Step const step = reference(code); step != Step::ok) return step;
          add_code(code);
          break;
        }
        case ']':
          if (cut("]]>")) return Step::more;
          if (starts("]]>")) return fail("]]> outside of a CDATA section");
          add_plain("]");
          ++at;
          break;
        case '\r':
          if (cut("\r\n")) return Step::more;
          add_escape('\n');
          at += starts("\r\n") ? 2 : 1;
          break;
        case '\n':
        case '\t':
        case '"':
        case '\\':
          add_escape(*at++);
          break;
        default:
          return at == end ? Step::ok : bad_character();
      }
      token = run = at;
    }
  }
  void add_code(std::uint32_t code) {
    if (code == '"' || code == '\\' || code < 0x20) return add_escape(static_cast<char>(code));
    joined.clear();
    append_code(joined, code);
    add_plain(joined);
  }
  Step cdata() {
    at += 9;
    if (frames.empty()) return fail_at(token, "text outside of the root element");
    char const* run = at;
    if (Step const step = find_text("]]>"); step != Step::ok) return step;
    char const* const stop = at;
    for (at = run; at < stop;) {
      if (of(kCdata, *at) == 0 || static_cast<unsigned char>(*at) == 0xef) {
        ++at;
        continue;
      }
      add_plain({run, static_cast<std::size_t>(at - run)});
      if (*at == '\r') {
        add_escape('\n');
        at += at[1] == '\n' ? 2 : 1;
      } else {
        add_escape(*at++);
      }
      run = at;
    }
    add_plain({run, static_cast<std::size_t>(stop - run)});
    at = stop + 3;
    return Step::ok;
  }

  // Tags.

  Step attribute_value(std::uint32_t& begin, std::uint32_t& after) {
    char const quote = *at;
    if (quote != '"' && quote != '\'') return fail("a value in quotes was expected here");
    ++at;
    Table const& special = quote == '"' ? kDoubleQuoted : kSingleQuoted;
    begin = static_cast<std::uint32_t>(escaped.size());
    for (char const* run = at;;) {
      while (of(special, *at) == 0) ++at;
      if (static_cast<unsigned char>(*at) == 0xef) {
        if (Step const step = check_character(); step != Step::ok) return step;
        continue;
      }
      escaped.append(run, static_cast<std::size_t>(at - run));
      char const c = *at;
      if (c == quote) break;
      switch (c) {
        case '&': {
          std::uint32_t code = 0;
          if (Step const step = reference(code); step != Step::ok) return step;
          switch (code) {
            case '"':
            case '\\':
              escaped += '\\', escaped += static_cast<char>(code);
              break;
            case '\n':
              escaped += "\\n";
              break;
            case '\t':
              escaped += "\\t";
              break;
            case '\r':
              escaped += "\\r";
              break;
            default:
              append_code(escaped, code);
          }
          break;
        }
        case '\r':
          if (cut("\r\n")) return Step::more;
          escaped += ' ';
          at += starts("\r\n") ? 2 : 1;
          break;
        case '\n':
        case '\t':
          escaped += ' ';
          ++at;
          break;
        case '"':
        case '\\':
          escaped += '\\', escaped += c;
          ++at;
          break;
        case '<':
          return fail("a < in an attribute");
        default:
          return ended();
      }
      run = at;
    }
    ++at;
    after = static_cast<std::uint32_t>(escaped.size());
    return Step::ok;
  }

  [[nodiscard]] std::uint32_t shape_below(std::uint32_t shape, std::string_view prefix, std::string_view name) const {
    for (std::uint32_t const child : shapes[shape].children) {
      std::string_view const step = shapes[child].step;
      if (step.size() == prefix.size() + name.size() && step.starts_with(prefix) && step.ends_with(name)) return child;
    }
    return 0;
  }

  Step start_tag() {
    ++at;
    std::size_t const attributes_before = attributes.size();
    std::size_t const escaped_before = escaped.size();
    auto undo = [&](Step step) {
      attributes.resize(attributes_before);
      escaped.resize(escaped_before);
      return step;
    };
    if (frames.empty() && had_root) return fail_at(token, "a second root element");
    Symbol* symbol = nullptr;
    if (Step const step = name(symbol); step != Step::ok) return step;
    bool const inside = keeps();
    bool const matches =
        !inside && matched == frames.size() && matched < each.size() && symbol->local->name == each[matched];
    bool const begins = !inside && (each.empty() ? frames.empty() : matches && matched + 1 == each.size());
    std::uint32_t shape = 0;
    if (inside || begins) shape = shape_below(inside ? nodes[frames.back().node].shape : 1, "", symbol->local->name);
    ++stamp;
    bool empty = false;
    for (;;) {
      bool const spaced = space();
      if (*at == '>') {
        ++at;
        break;
      }
      if (*at == '/') {
        if (at + 1 == end) return ++at, undo(ended());
        if (at[1] != '>') return undo(fail("a > was expected behind /"));
        at += 2;
        empty = true;
        break;
      }
      if (!spaced) return undo(fail("white space or the end of the tag was expected here"));
      char const* const place = at;
      Attribute attribute;
      if (Step const step = name(attribute.name); step != Step::ok) return undo(step);
      space();
      if (*at != '=') return undo(fail("a = was expected behind the attribute's name"));
      ++at;
      space();
      if (Step const step = attribute_value(attribute.begin, attribute.end); step != Step::ok) return undo(step);
      Symbol& key = *attribute.name;
      if (key.attribute_stamp == stamp)
        return undo(fail_at(place, fmt::format("the attribute {} stands there twice", key.name)));
      key.attribute_stamp = stamp;
      if (options.strip_ns) {
        if (key.declares_namespace) continue;
        attribute.with_prefix = key.local->key_stamp == stamp;
        key.local->key_stamp = stamp;
      }
      if (attributes.size() - attributes_before == kMaxAttributes) return undo(fail_at(place, "too many attributes"));
      if (shape != 0) attribute.type = shapes[shape_below(shape, "@", key.local->name)].type;
      attributes.push_back(attribute);
    }
    if (frames.size() == kMaxDepth)
      return undo(fail_at(token, fmt::format("more than {} elements inside each other", kMaxDepth)));
    had_root = true;
    Frame frame;
    frame.name = symbol;
    if (inside || begins) {
      if (nodes.size() > kMaxElements)
        return fail_at(token, fmt::format("more than {} elements in a record", kMaxElements));
      if (begins) record_line = lines, count_line();
      auto const index = static_cast<std::uint32_t>(nodes.size());
      Node node;
      node.name = symbol->local;
      node.first_attribute = static_cast<std::uint32_t>(attributes_before);
      node.attributes = static_cast<std::uint32_t>(attributes.size() - attributes_before);
      node.shape = shape;
      node.array = shapes[shape].array;
      nodes.push_back(node);
      bound += node.name->key.size() + 32;
      for (std::size_t i = attributes_before; i < attributes.size(); ++i) bound += attributes[i].name->key.size() + 8;
      if (inside) {
        Frame& parent = frames.back();
        (parent.last_child == 0 ? nodes[parent.node].first_child : nodes[parent.last_child].next) = index;
        parent.last_child = index;
      }
      frame.node = index;
    } else {
      attributes.resize(attributes_before);
      escaped.resize(escaped_before);
    }
    if (matches) {
      ++matched;
      parent_seen = parent_seen || matched + 1 == each.size();
    }
    frames.push_back(frame);
    return empty ? close() : Step::ok;
  }
  void count_line() {
    if (fill == nullptr) return;  // of use only where a record is not the whole text
    std::uint64_t column = columns;
    count(buffer.data(), token, record_line, column);
  }

  Step end_tag() {
    at += 2;
    if (frames.empty()) return fail_at(token, "an end tag without a start tag");
    std::string const& open = frames.back().name->name;
    if (static_cast<std::size_t>(end - at) <= open.size() && !whole) return Step::more;
    if (!starts(open) || of(kName, at[open.size()]) != 0)
      return fail(fmt::format("the end tag of <{}> was expected here", open));
    at += open.size();
    space();
    if (*at != '>') return fail("a > was expected here");
    ++at;
    return close();
  }

  Step close() {
    Frame const frame = frames.back();
    frames.pop_back();
    if (frame.node != 0) {
      Node& node = nodes[frame.node];
      if (frame.solid_piece == 0) {
        node.first_piece = 0;
      } else {
        node.last_piece = frame.solid_piece;
        pieces[frame.solid_piece].end = frame.solid_end;
      }
      if (node.first_child != 0) group(node);
    }
    bool const record = frame.node != 0 && !keeps();
    if (record && !each.empty()) {
      ++taken;
      if (error = (*take)(); !error.ok()) return Step::bad;
      reset_record();
    }
    matched = std::min(matched, frames.size());
    return Step::ok;
  }
  // Children of the same name become a list at the place of their first. Each is looked at once.
  void group(Node& node) {
    ++stamp;
    std::uint32_t last = 0;
    for (std::uint32_t child = node.first_child; child != 0;) {
      std::uint32_t const next = nodes[child].next;
      Symbol& symbol = *nodes[child].name;
      nodes[child].next = 0;
      if (symbol.stamp == stamp) {
        nodes[symbol.tail].next_same = child;
      } else {
        symbol.stamp = stamp;
        if (last != 0) nodes[last].next = child;
        last = child;
      }
      symbol.tail = child;
      child = next;
    }
  }

  // `<!…` and `<?…`

  Step processing_instruction() {
    at += 2;
    char const* const target = at;
    while (of(kName, *at) != 0) ++at;
    if (at == end) return ended();
    std::string_view const word(target, static_cast<std::size_t>(at - target));
    bool const xml = word.size() == 3 && (word[0] | 0x20) == 'x' && (word[1] | 0x20) == 'm' && (word[2] | 0x20) == 'l';
    if (xml && !begun && word == "xml") return declaration();
    if (xml) return fail_at(token, "an XML declaration that is not at the very beginning");
    if (word.empty() || intern(word) == nullptr) return fail_at(target, "a name was expected here");
    if (!is_space(*at) && !starts("?>")) return cut("?>") ? Step::more : fail("?> was expected here");
    if (Step const step = find_text("?>"); step != Step::ok) return step;
    at += 2;
    return Step::ok;
  }
  // <?xml version="1.0" encoding="…" standalone="…"?>. The text is UTF-8 by now: the encoding has had its effect.
  Step declaration() {
    if (!last_declaration.empty() && starts(last_declaration)) {
      at += last_declaration.size();
      return Step::ok;
    }
    char const* const from = at;
    if (Step const step = find_text("?>"); step != Step::ok) return step;
    char const* const stop = at;
    at = from;
    auto value = [&](std::string_view key, std::string_view& found) {
      char const* const before = at;
      if (!space() || !starts(key)) return at = before, false;
      at += key.size();
      space();
      bool const equals = *at == '=';
      at += equals ? 1 : 0;
      space();
      char const quote = *at;
      auto const* close = static_cast<char const*>(std::memchr(at + 1, quote, static_cast<std::size_t>(stop - at)));
      if (!equals || (quote != '"' && quote != '\'') || close == nullptr) return at = before, false;
      found = {at + 1, static_cast<std::size_t>(close - at - 1)};
      at = close + 1;
      return true;
    };
    constexpr std::string_view letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    std::string_view version, encoding, standalone;
    bool good =
        value("version", version) && !version.empty() && version.find_first_not_of(letters) == std::string_view::npos;
    if (good && value("encoding", encoding)) {
      good = !encoding.empty() && encoding.find_first_not_of(letters) == std::string_view::npos &&
             (encoding[0] | 0x20) >= 'a' && (encoding[0] | 0x20) <= 'z';
    }
    if (good && value("standalone", standalone)) good = standalone == "yes" || standalone == "no";
    space();
    if (!good || at != stop) return fail_at(token, "the XML declaration is not well-formed");
    at = stop + 2;
    last_declaration.assign(from, at);
    return Step::ok;
  }

  Step comment() {
    at += 4;
    if (Step const step = find_text("--"); step != Step::ok) return step;
    at += 2;
    if (*at != '>') return fail("-- inside of a comment");
    ++at;
    return Step::ok;
  }

  Step literal() {
    char const quote = *at;
    if (quote != '"' && quote != '\'') return fail("a text in quotes was expected here");
    ++at;
    if (Step const step = find_text({&quote, 1}); step != Step::ok) return step;
    ++at;
    return Step::ok;
  }
  // Nothing of a DTD is read: one that is somewhere else is not fetched, one that stands here must declare nothing.
  Step doctype() {
    at += 9;
    if (had_doctype || had_root) return fail_at(token, "a DOCTYPE that is not before the root element");
    Symbol* symbol = nullptr;
    if (!space()) return fail("white space was expected here");
    if (Step const step = name(symbol); step != Step::ok) return step;
    bool const spaced = space();
    if (cut("SYSTEM") || cut("PUBLIC")) return Step::more;
    if (bool const is_public = starts("PUBLIC"); is_public || starts("SYSTEM")) {
      if (!spaced) return fail("white space was expected here");
      at += 6;
      if (!space()) return fail("white space was expected here");
      if (is_public) {
        char const* const from = at;
        if (Step const step = literal(); step != Step::ok) return step;
        std::string_view const id(from + 1, static_cast<std::size_t>(at - from - 2));
        constexpr std::string_view allowed =
            " \r\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-'()+,./:=?;!*#@$_%";
        if (id.find_first_not_of(allowed) != std::string_view::npos) return fail_at(from, "no public identifier");
        if (!space()) return fail("white space was expected here");
      }
      if (Step const step = literal(); step != Step::ok) return step;
      space();
    }
    if (*at == '[') {
      ++at;
      for (space(); *at != ']'; space()) {
        if (cut("<!--") || cut("<!ENTITY") || cut("<?")) return Step::more;
        Step step = Step::bad;
        if (starts("<!--")) {
          step = comment();
        } else if (starts("<!ENTITY") || *at == '%') {
          return fail("the DOCTYPE declares an entity: none is expanded here");
        } else {
          return fail("the DOCTYPE declares something: no DTD is read");
        }
        if (step != Step::ok) return step;
      }
      ++at;
      space();
    }
    if (*at != '>') return fail("the > of the DOCTYPE was expected here");
    ++at;
    had_doctype = true;
    return Step::ok;
  }

  Step markup() {
    switch (at[1]) {
      case '/':
        return end_tag();
      case '?':
        return processing_instruction();
      case '!':
        if (cut("<!--") || cut("<![CDATA[") || cut("<!DOCTYPE")) return Step::more;
        if (starts("<!--")) return comment();
        if (starts("<![CDATA[")) return cdata();
        if (starts("<!DOCTYPE")) return doctype();
        return at + 2 == end ? (at = end, ended()) : fail_at(at, "<! that begins nothing known");
      default:
        return start_tag();
    }
  }

  // The document.

  void reset_record() {
    constexpr std::size_t kept = std::size_t{1} << 20;
    auto reset = [](auto& list, std::size_t first) {
      list.resize(first);
      if (list.capacity() * sizeof(list[0]) > kept) list.shrink_to_fit();
    };
    reset(nodes, 1);
    reset(pieces, 1);
    reset(attributes, 0);
    reset(escaped, 0);
    bound = 16;
  }
  void reset_document() {
    reset_record();
    if (symbol_bytes > (std::size_t{2} << 20)) symbols.clear(), symbol_bytes = 0, none.next = nullptr;
    frames.clear();
    guess = &none;
    begun = had_root = had_doctype = parent_seen = false;
    matched = 0;
    taken = 0;
    lines = columns = 1;
    error = {};
  }

  // More text behind what is held; what is done with is dropped.
  Status refill() {
    count(buffer.data(), token, lines, columns);
    buffer.erase(0, static_cast<std::size_t>(token - buffer.data()));
    std::size_t const held = buffer.size();
    if (held > limit) {
      token = at = buffer.data(), end = at + held;
      (void)fail_at(at, fmt::format("a tag, comment or section of more than {} bytes", limit));
      return error;
    }
    // At least twice as much as before: what is cut many times is not read anew each time.
    Status failed;
    while (!whole && buffer.size() <= 2 * held) {
      auto filled = (*fill)(buffer);
      if (!filled) failed = filled.status();
      whole = !filled || !*filled;
    }
    at = token = buffer.data();
    end = at + buffer.size();
    if (failed.code() == Code::rejected) {
      std::uint64_t line = lines, column = columns;
      count(at, end, line, column);
      return Status::rejected(fmt::format("line {}, column {}: {}", line, column, failed.what()));
    }
    return failed;
  }

  Status convert() {
    reset_document();
    at = token = buffer.data();
    end = at + buffer.size();
    if (starts("\xef\xbb\xbf")) at = token = at + 3;
    for (;;) {
      Step step = Step::more;
      if (at < end) {
        char const* const before = token = at;
        step = *at == '<' ? markup() : text();
        begun = begun || step == Step::ok || token > before;
      } else if (whole) {
        break;
      }
      if (step == Step::bad) return error;
      if (step == Step::ok && at < end) continue;
      if (step == Step::ok) token = at;
      if (step == Step::more && whole && at < end)
        return fail_at(at, "a defect: the end was not seen"), Status::defect(error.what());
      if (whole) break;
      if (Status status = refill(); !status.ok()) return status;
    }
    if (!frames.empty() || !had_root) {
      (void)(had_root ? ended() : fail_at(at, "there is no element"));
      return error;
    }
    if (each.empty()) {
      ++taken;
      return (*take)();
    }
    if (taken == 0 && !parent_seen)
      return Status::rejected(fmt::format("there is no {}, nor what it would be in", options.each));
    return {};
  }

  // Writing.

  void put(std::string_view text) {
    std::memcpy(write_at, text.data(), text.size());
    write_at += text.size();
  }
  std::string_view text_of(Node const& node, std::string& scratch) const {
    Piece const& front = pieces[node.first_piece];
    if (node.first_piece == node.last_piece)
      return std::string_view(escaped).substr(front.begin, front.end - front.begin);
    scratch.clear();
    for (std::uint32_t i = node.first_piece;; i = pieces[i].next) {
      scratch.append(escaped, pieces[i].begin, pieces[i].end - pieces[i].begin);
      if (i == node.last_piece) return scratch;
    }
  }
  // False: it is not of its type.
  bool put_value(std::string_view text, Type type) {
    if (type == Type::none) {
      if (options.infer && (is_json_number(text) || text == "true" || text == "false")) return put(text), true;
      *write_at++ = '"';
      put(text);
      *write_at++ = '"';
      return true;
    }
    if (text.empty()) return put("null"), true;
    if (type == Type::boolean) {
      bool const yes = text == "true" || text == "1";
      if (!yes && text != "false" && text != "0") return false;
      return put(yes ? "true" : "false"), true;
    }
    // Digits stay as written; JSON has no +1, 007, .5 and 5.
    std::size_t i = 0;
    if (text[0] == '-' || text[0] == '+') i = 1;
    std::size_t const integer = std::min(text.find_first_not_of("0123456789", i), text.size());
    std::string_view digits = text.substr(i, integer - i);
    std::string_view rest = text.substr(integer);
    while (digits.size() > 1 && digits[0] == '0') digits.remove_prefix(1);
    bool const fraction = rest.size() > 1 && rest[0] == '.' && rest[1] >= '0' && rest[1] <= '9';
    if (digits.empty() && !(fraction && type == Type::real)) return false;
    char* const before = write_at;
    if (text[0] == '-') put("-");
    put(digits.empty() ? "0" : digits);
    if (rest.starts_with('.') && !fraction) rest.remove_prefix(1);
    put(rest);
    std::string_view const number(before, static_cast<std::size_t>(write_at - before));
    if (is_json_number(number) && (type == Type::real || integer == text.size())) return true;
    write_at = before;
    return false;
  }
  bool wrong(std::string_view text, Type type) {
    error = Status::rejected(fmt::format("'{:.60}' is no {}", text, kTypeNames[static_cast<std::size_t>(type)]));
    return false;
  }
  [[nodiscard]] std::string_view key_of(Attribute const& attribute) const {
    return attribute.with_prefix ? attribute.name->key : attribute.name->local->key;
  }
  void put_key(Symbol const& symbol) {
    *write_at++ = '"';
    put(std::string_view(symbol.key).substr(2));
  }
  bool put_node(Node const& node) {
    Type type = shapes[node.shape].type;
    bool const has_text = node.first_piece != 0;
    if (node.attributes == 0 && node.first_child == 0) {
      if (!has_text) return put("null"), true;
      std::string_view const value = text_of(node, joined);
      return put_value(value, type) || wrong(value, type);
    }
    *write_at++ = '{';
    for (std::uint32_t i = 0; i < node.attributes; ++i) {
      Attribute const& attribute = attributes[node.first_attribute + i];
      put(key_of(attribute));
      std::string_view const text = std::string_view(escaped).substr(attribute.begin, attribute.end - attribute.begin);
      if (!put_value(text, attribute.type)) return wrong(text, attribute.type);
      *write_at++ = ',';
    }
    for (std::uint32_t child = node.first_child; child != 0; child = nodes[child].next) {
      put_key(*nodes[child].name);
      if (!put_same(child)) return false;
      *write_at++ = ',';
    }
    if (has_text) {
      put("\"#text\":");
      std::string_view const text = text_of(node, joined);
      if (std::uint32_t const own = node.shape == 0 ? 0 : shape_below(node.shape, "", "#text")) type = shapes[own].type;
      if (!put_value(text, type)) return wrong(text, type);
      *write_at++ = ',';
    }
    write_at[-1] = '}';
    return true;
  }
  bool put_same(std::uint32_t front) {
    Node const& node = nodes[front];
    bool const array = node.array || node.next_same != 0;
    if (array) *write_at++ = '[';
    for (std::uint32_t i = front; i != 0; i = nodes[i].next_same) {
      if (!put_node(nodes[i])) {
        // The path grows from the inside out.
        error = Status::rejected(
            fmt::format("{}{}{}", nodes[i].name->name, error.what().starts_with('\'') ? ": " : "/", error.what()));
        return false;
      }
      if (array) *write_at++ = ',';
    }
    if (array) write_at[-1] = ']';
    return true;
  }
};

XmlJson::XmlJson(std::unique_ptr<State> state) : state_(std::move(state)) {}
XmlJson::~XmlJson() = default;
XmlJson::XmlJson(XmlJson&&) noexcept = default;

Result<XmlJson> XmlJson::make(Options const& options) {
  auto state = std::make_unique<State>();
  state->options = options;
  auto plant = [&](Path const& path) -> Shape& {
    std::uint32_t at = 1;
    for (std::string const& step : path.steps()) {
      std::uint32_t next = state->shape_below(at, "", step);
      if (next == 0) {
        next = static_cast<std::uint32_t>(state->shapes.size());
        state->shapes[at].children.push_back(next);
        state->shapes.push_back({step, Type::none, false, {}});
      }
      at = next;
    }
    return state->shapes[at];
  };
  for (std::string const& text : options.types) {
    std::size_t const equals = text.rfind('=');
    auto const* const type = equals == std::string::npos
                                 ? std::end(kTypeNames)
                                 : std::find(std::begin(kTypeNames) + 1, std::end(kTypeNames), text.substr(equals + 1));
    if (type == std::end(kTypeNames))
      return Status::usage(fmt::format("--type '{}': give PATH=int, PATH=float or PATH=bool", text));
    auto path = element_path(std::string_view(text).substr(0, equals), "--type");
    if (!path) return path.status();
    plant(*path).type = static_cast<Type>(type - std::begin(kTypeNames));
  }
  for (std::string const& text : options.arrays) {
    auto path = element_path(text, "--array");
    if (!path) return path.status();
    plant(*path).array = true;
  }
  if (!options.each.empty()) {
    auto path = element_path(options.each, "--each");
    if (!path) return path.status();
    state->each = path->steps();
  }
  return XmlJson(std::move(state));
}

std::string& XmlJson::text() { return state_->buffer; }

Status XmlJson::convert(Take const& take) {
  State& s = *state_;
  s.whole = true;
  s.fill = nullptr;
  s.take = &take;
  return s.convert();
}

Status XmlJson::convert(Fill const& fill, std::size_t limit, Take const& take) {
  State& s = *state_;
  s.whole = false;
  s.fill = &fill;
  s.limit = limit;
  s.take = &take;
  s.buffer.clear();
  return s.convert();
}

Status XmlJson::write(std::string& out) {
  State& s = *state_;
  std::size_t const before = out.size();
  out.resize(before + s.bound + s.escaped.size());
  s.write_at = out.data() + before;
  *s.write_at++ = '{';
  s.put_key(*s.nodes[1].name);
  bool const good = s.put_same(1);
  *s.write_at++ = '}';
  out.resize(good ? static_cast<std::size_t>(s.write_at - out.data()) : before);
  return good ? Status{} : Status::rejected("/" + s.error.what());
}

bool XmlJson::find(Path const& path, std::string& quoted) const {
  State const& s = *state_;
  auto const& steps = path.steps();
  if (!path.in_data() || steps[0] != s.nodes[1].name->name) return false;
  std::string scratch;
  auto give = [&](std::string_view text) {
    quoted.assign(1, '"').append(text) += '"';
    return true;
  };
  std::uint32_t node = 1;
  for (std::size_t i = 1;; ++i) {
    if (s.nodes[node].array || s.nodes[node].next_same != 0) {
      if (i == steps.size()) return false;
      std::string const& step = steps[i++];
      bool const index = !step.empty() && step.size() < 8 && step.find_first_not_of("0123456789") == std::string::npos;
      if (!index) return false;
      for (auto n = std::stoul(step); n > 0 && node != 0; --n) node = s.nodes[node].next_same;
      if (node == 0) return false;
    }
    Node const& here = s.nodes[node];
    bool const scalar = here.attributes == 0 && here.first_child == 0;
    if (i == steps.size()) return scalar && here.first_piece != 0 && give(s.text_of(here, scratch));
    if (scalar) return false;
    std::string const& step = steps[i];
    if (i + 1 == steps.size() && step == "#text" && here.first_piece != 0) return give(s.text_of(here, scratch));
    if (step[0] == '@' && i + 1 == steps.size()) {
      for (std::uint32_t a = here.first_attribute; a < here.first_attribute + here.attributes; ++a) {
        std::string_view key = s.key_of(s.attributes[a]);
        if (key.substr(1, key.size() - 3) != step) continue;
        return give(
            std::string_view(s.escaped).substr(s.attributes[a].begin, s.attributes[a].end - s.attributes[a].begin));
      }
      return false;
    }
    node = here.first_child;
    while (node != 0 && s.nodes[node].name->name != step) node = s.nodes[node].next;
    if (node == 0) return false;
  }
}

std::uint64_t XmlJson::line() const { return state_->record_line; }

}  // namespace inflight
