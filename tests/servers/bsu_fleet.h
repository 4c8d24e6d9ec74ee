// The simulated fleet: what each battery storage unit measures at any time, and how its firmware writes it as XML.
//
// Everything is a pure function of seed, unit and time, so that a test may ask twice, or ask for the past, and compare.
// Times are milliseconds since 1970. Nothing here knows of HTTP. Safe to call from several threads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace inflight::sim {

// The firmware of a unit decides the shape of its document.
enum class Firmware : std::uint8_t {
  attributes,  // 3.1: <bsu id= firmware= time=>, measurements as elements, four <module> elements
  single,      // 3.2: as attributes, but one <module> where others have several
  elements,    // 2.8: <bsu><id/><firmware/><time/>, local time with an offset, modules with elements inside
  latin1,      // 2.4: as attributes, in ISO-8859-1, with a site name beyond ASCII
  namespaces,  // 4.0: <b:bsu xmlns:b= xmlns:m=>
  sunspec,     // SunSpec Data Exchange 1.2: <SunSpecData v="1"><d t=><m id=><p id=>, models 1, 103 and 802
};
inline constexpr int firmware_count = 6;
[[nodiscard]] std::string_view name_of(Firmware firmware);
[[nodiscard]] std::optional<Firmware> firmware_named(std::string_view name);

// In units of the last digit shown, so that a document and a reading of the history show the same figures.
struct Reading {
  std::int64_t time;         // ms since 1970
  std::int64_t power;        // 0.01 kW, positive when charging
  std::int64_t energy;       // 0.1 kWh, moved in both directions since 2015: never falls
  std::int64_t voltage;      // 0.1 V
  std::int64_t current;      // 0.01 A, with the sign of power
  std::int64_t temperature;  // 0.1 degrees Celsius
  std::int64_t charge;       // 0.1 %, state of charge
  std::int64_t frequency;    // 0.001 Hz
  std::int64_t cell[4];      // mV, mean cell of each module
  std::int64_t heat[4];      // 0.1 degrees Celsius of each module
  int alarm;                 // 0 or a code
  std::string_view status;   // idle, charging, discharging, fault
};

class Fleet {
 public:
  // `sunspec` is the share of units that speak SunSpec; the other `kinds` share the rest. One kind means only that one.
  Fleet(std::size_t units, std::uint64_t seed, double sunspec, std::vector<Firmware> const& kinds);

  [[nodiscard]] std::size_t size() const { return firmware_.size(); }
  [[nodiscard]] std::string id(std::size_t unit) const;                      // bsu-00001 is unit 0
  [[nodiscard]] std::optional<std::size_t> find(std::string_view id) const;  // nullopt: no such unit
  [[nodiscard]] Firmware firmware(std::size_t unit) const { return firmware_[unit]; }
  [[nodiscard]] Reading read(std::size_t unit, std::int64_t time) const;

  // The units in an order that depends on nothing but the seed: its first tenth is "a tenth of the units, always the
  // same".
  [[nodiscard]] std::vector<std::size_t> shuffled() const;

  // Appends the document of one reading, about 750 bytes. A shape other than the unit's own is a unit that changes its
  // mind.
  void document(std::string& out, std::size_t unit, Reading const& reading, Firmware shape) const;
  // Appends a well-formed document of a shape that no firmware has: other names, other nesting, text where numbers
  // were.
  void odd_document(std::string& out, std::size_t unit, Reading const& reading) const;
  // Appends the document with one of six kinds of damage, none of which an XML parser may accept.
  void broken_document(std::string& out, std::size_t unit, Reading const& reading, unsigned kind) const;

  // The parts of <history unit= since= until=>, whose <reading> elements are the same for every firmware.
  void history_begin(std::string& out, std::size_t unit, std::int64_t since, std::int64_t until) const;
  static void history_reading(std::string& out, Reading const& reading);
  static void history_end(std::string& out);

 private:
  std::uint64_t seed_;
  std::vector<Firmware> firmware_;
};

// RFC 3339 with milliseconds, at an offset from UTC in minutes.
void append_time(std::string& out, std::int64_t time, int offset_minutes = 0);
// nullopt: not RFC 3339. Digits beyond milliseconds are cut off; a blank stands for the plus that it was before URL
// decoding.
[[nodiscard]] std::optional<std::int64_t> parse_time(std::string_view text);

// A number made of its arguments alone, uniform in 64 bits (the finalizer of splitmix64).
[[nodiscard]] std::uint64_t mix(std::uint64_t a, std::uint64_t b, std::uint64_t c = 0);

}  // namespace inflight::sim
