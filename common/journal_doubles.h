// The window in which the journal recognises a line that it already has: the last 200,000 lines, by their XXH3-128.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace inflight::journal {

class Doubles {
 public:
  static constexpr std::size_t kWindow = 200'000;

  Doubles();

  // False: the window has this line. Added lines are provisional until keep(); undo() takes them back.
  [[nodiscard]] bool add(std::string_view line);
  void keep();
  void undo();

 private:
  struct Hash {
    std::uint64_t low = 0, high = 0;
    bool operator==(Hash const&) const = default;
  };

  [[nodiscard]] std::size_t home(Hash const& hash) const { return hash.low & (table_.size() - 1); }
  [[nodiscard]] std::size_t find(Hash const& hash) const;  // its slot, or the empty one where it belongs
  void erase(Hash const& hash);
  void grow();
  [[nodiscard]] Hash& order(std::uint64_t number) { return order_[number & (order_.size() - 1)]; }

  [[nodiscard]] Hash const& at(std::size_t slot) const { return order_[table_[slot] - 1]; }
  void put(std::size_t slot, std::uint64_t number) {
    table_[slot] = static_cast<std::uint32_t>(number & (order_.size() - 1)) + 1;
  }

  std::vector<std::uint32_t> table_;  // places in order_, from 1; open addressing, linear probing, at most half full
  std::vector<Hash> order_;           // a ring, by number of arrival
  std::uint64_t oldest_ = 0, kept_ = 0, next_ = 0;
};

}  // namespace inflight::journal
