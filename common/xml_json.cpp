#include "common/xml_json.h"

#include <fmt/format.h>

#include <cstring>

#include "common/xml_cursor.h"
#include "common/xml_names.h"
#include "common/xml_scanner.h"
#include "common/xml_shape.h"
#include "common/xml_tree.h"

namespace inflight {

namespace {

// Writes a record into room that is known to be enough.
class Writing {
 public:
  Writing(XmlTree const& tree, XmlShape const& shape, bool infer, std::string& scratch)
      : tree_(tree), shape_(shape), infer_(infer), scratch_(scratch) {}

  // Null, and why() says why: a value is not of its type.
  char* record(char* to) {
    to_ = to;
    *to_++ = '{';
    put_key(*tree_.node(XmlTree::kRoot).name);
    if (!put_same(XmlTree::kRoot)) return nullptr;
    *to_++ = '}';
    return to_;
  }
  [[nodiscard]] std::string const& why() const { return why_; }

 private:
  void put(std::string_view text) {
    std::memcpy(to_, text.data(), text.size());
    to_ += text.size();
  }
  void put_key(XmlName const& name) {
    *to_++ = '"';
    put(std::string_view(name.key).substr(2));  // without `"@`
  }
  bool put_text(std::string_view text, XmlType type) {
    if (put_value(to_, text, type, infer_)) return true;
    why_ = fmt::format(": '{:.60}' is no {}", text, name_of(type));
    return false;
  }
  bool put_node(XmlTree::Node const& node) {
    XmlType type = shape_.type(node.shape);
    bool const has_text = node.first_piece != 0;
    if (node.is_scalar()) {
      if (!has_text) return put("null"), true;
      return put_text(tree_.text(node, scratch_), type);
    }
    *to_++ = '{';
    for (std::uint32_t i = 0; i < node.attributes; ++i) {
      XmlTree::Attribute const& attribute = tree_.attribute(node.first_attribute + i);
      put(attribute.key());
      if (!put_text(tree_.value(attribute), attribute.type)) return false;
      *to_++ = ',';
    }
    for (std::uint32_t child = node.first_child; child != 0; child = tree_.node(child).next) {
      put_key(*tree_.node(child).name);
      if (!put_same(child)) return false;
      *to_++ = ',';
    }
    if (has_text) {
      put("\"#text\":");
      if (node.shape != XmlShape::kNothing) {
        if (auto const own = shape_.below(node.shape, "", "#text"); own != XmlShape::kNothing) type = shape_.type(own);
      }
      if (!put_text(tree_.text(node, scratch_), type)) return false;
      *to_++ = ',';
    }
    to_[-1] = '}';
    return true;
  }
  bool put_same(std::uint32_t front) {
    XmlTree::Node const& node = tree_.node(front);
    bool const array = node.is_array || node.next_same != 0;
    if (array) *to_++ = '[';
    for (std::uint32_t i = front; i != 0; i = tree_.node(i).next_same) {
      if (!put_node(tree_.node(i))) return why_ = fmt::format("/{}{}", node.name->text, why_), false;
      if (array) *to_++ = ',';
    }
    if (array) to_[-1] = ']';
    return true;
  }

  XmlTree const& tree_;
  XmlShape const& shape_;
  bool infer_;
  std::string& scratch_;
  char* to_ = nullptr;
  std::string why_;  // grows from the inside out
};

}  // namespace

struct XmlJson::State {
  State(Options const& given, XmlShape declared, std::vector<std::string> each)
      : options(given),
        shape(std::move(declared)),
        names(given.strip_ns),
        tree(std::move(each), shape, given.strip_ns),
        scanner(in, names, tree) {}

  Options options;
  XmlShape shape;
  XmlCursor in;
  XmlNames names;
  XmlTree tree;
  XmlScanner scanner;
  std::string scratch;

  Status convert(std::size_t limit, Take const& take) {
    scanner.begin_document(limit);
    std::uint64_t taken = 0;
    for (;;) {
      auto more = scanner.next();
      if (!more) return more.status();
      if (!*more) break;
      ++taken;
      if (Status status = take(); !status.ok()) return status;
      tree.clear();
      names.begin_record();
    }
    if (options.each.empty()) {
      in.forget();
      return take();
    }
    if (taken == 0 && !tree.had_parent())
      return Status::rejected(fmt::format("there is no {}, nor what it would be in", options.each));
    return {};
  }
};

XmlJson::XmlJson(std::unique_ptr<State> state) : state_(std::move(state)) {}
XmlJson::~XmlJson() = default;
XmlJson::XmlJson(XmlJson&&) noexcept = default;

Result<XmlJson> XmlJson::make(Options const& options) {
  auto shape = XmlShape::make(options.types, options.arrays);
  if (!shape) return shape.status();
  std::vector<std::string> each;
  if (!options.each.empty()) {
    auto path = element_path(options.each, "--each");
    if (!path) return path.status();
    each = path->steps();
  }
  return XmlJson(std::make_unique<State>(options, std::move(*shape), std::move(each)));
}

std::string& XmlJson::text() { return state_->in.buffer; }

Status XmlJson::convert(Take const& take) {
  state_->in.begin();
  return state_->convert(XmlTree::kMaxText, take);
}

Status XmlJson::convert(Fill const& fill, std::size_t limit, Take const& take) {
  state_->in.begin(fill, limit);
  return state_->convert(limit, take);
}

Status XmlJson::write(std::string& out) {
  State& s = *state_;
  if (!s.tree.given_up().empty()) return Status::rejected(s.tree.given_up());
  std::size_t const before = out.size();
  out.resize(before + s.tree.bound());
  Writing writing(s.tree, s.shape, s.options.infer, s.scratch);
  char const* const end = writing.record(out.data() + before);
  out.resize(end != nullptr ? static_cast<std::size_t>(end - out.data()) : before);
  return end != nullptr ? Status{} : Status::rejected(writing.why());
}

void XmlJson::forget() { state_->tree.clear(); }

bool XmlJson::find(Path const& path, std::string& quoted) const {
  XmlTree const& tree = state_->tree;
  auto const& steps = path.steps();
  if (!path.in_data() || !tree.given_up().empty() || steps[0] != tree.node(XmlTree::kRoot).name->text) return false;
  std::string scratch;
  auto give = [&](std::string_view text) {
    quoted.assign(1, '"').append(text) += '"';
    return true;
  };
  std::uint32_t at = XmlTree::kRoot;
  for (std::size_t i = 1;; ++i) {
    if (tree.node(at).is_array || tree.node(at).next_same != 0) {
      if (i == steps.size()) return false;
      std::string const& step = steps[i++];
      bool const index = !step.empty() && step.size() < 8 && step.find_first_not_of("0123456789") == std::string::npos;
      if (!index) return false;
      for (auto n = std::stoul(step); n > 0 && at != 0; --n) at = tree.node(at).next_same;
      if (at == 0) return false;
    }
    XmlTree::Node const& here = tree.node(at);
    if (i == steps.size()) return here.is_scalar() && here.first_piece != 0 && give(tree.text(here, scratch));
    if (here.is_scalar()) return false;
    std::string const& step = steps[i];
    bool const last = i + 1 == steps.size();
    if (last && step == "#text" && here.first_piece != 0) return give(tree.text(here, scratch));
    if (last && step.starts_with('@')) {
      for (std::uint32_t a = here.first_attribute; a < here.first_attribute + here.attributes; ++a) {
        std::string_view const key = tree.attribute(a).key();
        if (key.substr(1, key.size() - 3) == step) return give(tree.value(tree.attribute(a)));
      }
      return false;
    }
    at = here.first_child;
    while (at != 0 && tree.node(at).name->text != step) at = tree.node(at).next;
    if (at == 0) return false;
  }
}

std::uint64_t XmlJson::line() const { return state_->scanner.record_line(); }

}  // namespace inflight
