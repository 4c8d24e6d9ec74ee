#include "common/json_digest.h"

#include <xxhash.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

namespace inflight {

namespace {

using Json = nlohmann::json;

// Each scalar is hashed with the path to it, and the hashes are added: their order does not matter.
class Hasher final : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return next(); }  // says no more than a member that is missing
  bool boolean(bool value) override { return leaf(value ? "t" : "f"); }
  bool number_integer(number_integer_t value) override { return leaf("n" + std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { return leaf("n" + std::to_string(value)); }
  bool number_float(number_float_t, string_t const& text) override { return leaf("n" + text); }
  bool string(string_t& text) override { return leaf("s" + text); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return start(false); }
  bool start_array(std::size_t) override { return start(true); }
  bool key(string_t& text) override {
    member_ = text;
    return true;
  }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }
  bool parse_error(std::size_t, std::string const&, nlohmann::detail::exception const&) override { return false; }

  [[nodiscard]] std::string digest() const {
    std::string out(16, '\0');
    std::memcpy(out.data(), &low_, 8);
    std::memcpy(out.data() + 8, &high_, 8);
    return out;
  }

 private:
  struct Frame {
    bool array;
    std::uint64_t path;
    std::uint64_t index = 0;
  };

  [[nodiscard]] std::uint64_t path() const {
    if (frames_.empty()) return 0;
    Frame const& frame = frames_.back();
    std::string const name = frame.array ? std::to_string(frame.index) : member_;
    return XXH3_64bits_withSeed(name.data(), name.size(), frame.path);
  }
  bool next() {
    if (!frames_.empty()) ++frames_.back().index;
    return true;
  }
  bool leaf(std::string const& text) {
    XXH128_hash_t const hash = XXH3_128bits_withSeed(text.data(), text.size(), path());
    low_ += hash.low64;
    high_ += hash.high64;
    return next();
  }
  bool start(bool array) {
    frames_.push_back({array, path()});
    return true;
  }
  bool end() {
    frames_.pop_back();
    return next();
  }

  std::vector<Frame> frames_;
  std::string member_;
  std::uint64_t low_ = 0, high_ = 0;
};

}  // namespace

std::optional<std::string> json_digest(std::string_view json) {
  Hasher hasher;
  if (!Json::sax_parse(json.begin(), json.end(), &hasher)) return std::nullopt;
  return hasher.digest();
}

}  // namespace inflight
