#include "tests/servers/bsu_fleet.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <numbers>
#include <numeric>

namespace inflight::sim {

namespace {

constexpr std::string_view firmware_names[firmware_count] = {"attributes", "single",     "elements",
                                                             "latin1",     "namespaces", "sunspec"};
constexpr std::string_view firmware_versions[firmware_count] = {"3.1.4", "3.2.0", "2.8.1", "2.4.9", "4.0.2", "1.2"};
// UTF-8 here; the latin1 firmware narrows them.
constexpr std::string_view sites[] = {"Mühlhöfe 3", "Süderbrarup", "Fürstenfeld", "Käserei Gößwald", "Åkerby"};
constexpr std::string_view alarms[] = {"", "module 2 above 45 °C", "grid frequency < 49.8 Hz",
                                       "fan & filter need service", "insulation below 500 kΩ"};
constexpr std::int64_t day = 86'400'000;
constexpr std::int64_t commissioned = 1'420'070'400'000;  // 2015-01-01
constexpr double pi = std::numbers::pi;

// Uniform in [0, 1).
double fraction(std::uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

std::int64_t rounded(double value) { return std::llround(value); }

template <class... Args>
void add(std::string& out, fmt::format_string<Args...> form, Args&&... args) {
  fmt::format_to(std::back_inserter(out), form, std::forward<Args>(args)...);
}

// A number whose last digits are decimals. Printing doubles would cost more than all the rest of a document.
struct Fixed {
  std::int64_t value;
  int decimals;
};

void append(std::string& out, std::string_view text) { out += text; }
void append(std::string& out, std::int64_t value) {
  fmt::format_int const digits(value);
  out.append(digits.data(), digits.size());
}
void append(std::string& out, Fixed number) {
  std::uint64_t rest = static_cast<std::uint64_t>(std::abs(number.value));
  char buffer[24];
  char* at = std::end(buffer);
  for (int i = 0; i < number.decimals; ++i, rest /= 10) *--at = static_cast<char>('0' + rest % 10);
  *--at = '.';
  do *--at = static_cast<char>('0' + rest % 10);
  while (rest /= 10);
  if (number.value < 0) *--at = '-';
  out.append(at, static_cast<std::size_t>(std::end(buffer) - at));
}

template <class... Parts>
void put(std::string& out, Parts const&... parts) {
  (append(out, parts), ...);
}

void append_escaped(std::string& out, std::string_view text, bool latin1) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto const c = static_cast<unsigned char>(text[i]);
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c < 0x80 || !latin1)
      out += text[i];
    else if (c < 0xc4)
      out += static_cast<char>((c & 0x03) << 6 | (text[++i] & 0x3f));
    else {  // beyond Latin-1: a character reference, as such firmware does
      add(out, "&#{};", (c & 0x1f) << 6 | (text[i + 1] & 0x3f));
      ++i;
    }
  }
}

void append_alarm(std::string& out, std::string_view prefix, Reading const& r, bool latin1) {
  if (r.alarm == 0) return;
  put(out, "  <", prefix, "alarm code=\"", r.alarm + 200, "\">");
  append_escaped(out, alarms[r.alarm], latin1);
  put(out, "</", prefix, "alarm>\n");
}

}  // namespace

std::string_view name_of(Firmware firmware) { return firmware_names[static_cast<int>(firmware)]; }

std::optional<Firmware> firmware_named(std::string_view name) {
  auto const* found = std::find(std::begin(firmware_names), std::end(firmware_names), name);
  if (found == std::end(firmware_names)) return std::nullopt;
  return static_cast<Firmware>(found - std::begin(firmware_names));
}

std::uint64_t mix(std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  auto const step = [](std::uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  };
  return step(step(step(a) ^ b) ^ c);
}

Fleet::Fleet(std::size_t units, std::uint64_t seed, double sunspec, std::vector<Firmware> const& kinds) : seed_(seed) {
  firmware_.resize(units);
  for (std::size_t unit = 0; unit < units; ++unit)
    firmware_[unit] = kinds.empty() ? Firmware::sunspec : kinds[mix(seed, unit, 1) % kinds.size()];
  auto const order = shuffled();
  // From the back, so that the units of a fault, taken from the front, speak every dialect.
  auto const speakers = static_cast<std::size_t>(rounded(sunspec * static_cast<double>(units)));
  for (std::size_t i = 0; i < speakers; ++i) firmware_[order[(i * 7919) % units]] = Firmware::sunspec;
}

std::vector<std::size_t> Fleet::shuffled() const {
  std::vector<std::size_t> order(size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return mix(seed_, a, 2) < mix(seed_, b, 2); });
  return order;
}

std::string Fleet::id(std::size_t unit) const { return fmt::format("bsu-{:05}", unit + 1); }

std::optional<std::size_t> Fleet::find(std::string_view id) const {
  if (!id.starts_with("bsu-") || id.size() < 9 || id.size() > 14) return std::nullopt;
  std::size_t number = 0;
  for (char c : id.substr(4)) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + static_cast<std::size_t>(c - '0');
  }
  if (number == 0 || number > size() || (id.size() > 9 && id[4] == '0')) return std::nullopt;
  return number - 1;
}

Reading Fleet::read(std::size_t unit, std::int64_t time) const {
  auto noise = [&, n = std::uint64_t{100}]() mutable {
    return fraction(mix(seed_, unit << 8 | ++n, static_cast<std::uint64_t>(time))) - 0.5;
  };
  auto const trait = [&](std::uint64_t which) { return fraction(mix(seed_, unit, 10 + which)); };

  // The charge is a sine over the unit's own cycle of about a day, so power is a cosine and the energy moved is the
  // integral of its absolute value: the figures of one reading agree with each other, and with those of the next.
  double const capacity = 80 + 120 * trait(0);  // kWh
  double const cycle = 2 * pi / (static_cast<double>(day) * (0.8 + 0.4 * trait(1)));
  double const swing = 0.25 + 0.15 * trait(2);
  double const x = cycle * static_cast<double>(time - commissioned) + 2 * pi * trait(3);
  double const half_turns = std::floor((x + pi / 2) / pi);
  double const level = 0.5 + swing * std::sin(x);
  double const power = capacity * swing * cycle * 3.6e6 * std::cos(x) + 0.05 * noise();
  double const moved = capacity * swing * (2 * half_turns + std::sin(x - half_turns * pi)) + 1000 * trait(4);

  Reading r{};
  r.time = time;
  r.power = rounded(power * 100);
  r.energy = rounded(moved * 10);
  double const voltage = 648 + 130 * level + power * 0.1 + 0.4 * noise();
  r.voltage = rounded(voltage * 10);
  r.current = rounded(power * 1000 / voltage * 100);
  double const warmth = 21 + 5 * std::sin(2 * pi * static_cast<double>(time % day) / static_cast<double>(day) - 2) +
                        0.15 * std::abs(power) + 3 * trait(5);
  r.temperature = rounded((warmth + 0.2 * noise()) * 10);
  r.charge = rounded(level * 1000);
  r.frequency = rounded(50'000 + 40 * noise());
  for (int i = 0; i < 4; ++i) {
    r.cell[i] = rounded(voltage / 0.192 + 12 * trait(6 + static_cast<std::uint64_t>(i)) + 2 * noise());
    r.heat[i] = rounded((warmth + 2 * trait(10 + static_cast<std::uint64_t>(i)) + 0.3 * noise()) * 10);
  }
  // An alarm lasts a quarter of an hour, and about one unit in fifty has one.
  auto const luck = mix(seed_, unit << 8 | 99, static_cast<std::uint64_t>(time / (day / 96)));
  r.alarm = luck % 50 == 0 ? 1 + static_cast<int>((luck >> 32) % 4) : 0;
  r.status = r.alarm == 4 ? "fault" : std::abs(power) < 1 ? "idle" : power > 0 ? "charging" : "discharging";
  return r;
}

void Fleet::document(std::string& out, std::size_t unit, Reading const& r, Firmware shape) const {
  auto const version = firmware_versions[static_cast<int>(shape)];
  auto const site = sites[mix(seed_, unit, 3) % std::size(sites)];
  std::string const name = id(unit);
  bool const latin1 = shape == Firmware::latin1;
  switch (shape) {
    case Firmware::attributes:
    case Firmware::single:
    case Firmware::latin1:
      put(out, "<?xml version=\"1.0\" encoding=\"", latin1 ? "ISO-8859-1" : "UTF-8", "\"?>\n<bsu id=\"", name,
          "\" firmware=\"", version, "\" time=\"");
      append_time(out, r.time);
      put(out, "\">\n");
      put(out, "  <site>");
      if (latin1)
        append_escaped(out, site, true);
      else
        put(out, "Station ", static_cast<std::int64_t>(unit % 40 + 1));
      put(out, "</site>\n");
      put(out, "  <status>", r.status, "</status>\n  <uptime unit=\"s\">", (r.time - commissioned) / 1000 % 5'000'000,
          "</uptime>\n  <health unit=\"%\">", Fixed{980 - static_cast<std::int64_t>(unit % 60), 1},
          "</health>\n  <power unit=\"kW\">", Fixed{r.power, 2}, "</power>\n  <energy unit=\"kWh\">",
          Fixed{r.energy, 1}, "</energy>\n  <voltage unit=\"V\">", Fixed{r.voltage, 1},
          "</voltage>\n  <current unit=\"A\">", Fixed{r.current, 2}, "</current>\n  <temperature unit=\"C\">",
          Fixed{r.temperature, 1}, "</temperature>\n  <soc unit=\"%\">", Fixed{r.charge, 1},
          "</soc>\n  <frequency unit=\"Hz\">", Fixed{r.frequency, 3}, "</frequency>\n");
      if (shape == Firmware::single) {
        put(out, "  <module n=\"1\"><voltage>", Fixed{r.cell[0], 3}, "</voltage><temperature>", Fixed{r.heat[0], 1},
            "</temperature><cells>192</cells><balancing>", r.charge % 2 == 0 ? "on" : "off",
            "</balancing></module>\n  <comment><![CDATA[inverter <ok> & grid <ok>]]></comment>\n");
      } else {
        for (std::int64_t i = 0; i < 4; ++i)
          put(out, "  <module n=\"", i + 1, "\" voltage=\"", Fixed{r.cell[i], 3}, "\" temperature=\"",
              Fixed{r.heat[i], 1}, "\"/>\n");
      }
      append_alarm(out, "", r, latin1);
      put(out, "</bsu>\n");
      return;
    case Firmware::elements:
      put(out, "<?xml version=\"1.0\"?>\n<bsu><id>", name, "</id><firmware>", version, "</firmware>\n<time>");
      append_time(out, r.time, 120);
      put(out, "</time>\n<site>");
      append_escaped(out, site, false);
      put(out, "</site><status>", r.status, "</status>\n<power>", Fixed{r.power, 2}, "</power><energy>",
          Fixed{r.energy, 1}, "</energy>\n<voltage>", Fixed{r.voltage, 1}, "</voltage><current>", Fixed{r.current, 2},
          "</current>\n<temperature>", Fixed{r.temperature, 1}, "</temperature><soc>", Fixed{r.charge, 1},
          "</soc>\n<frequency>", Fixed{r.frequency, 3}, "</frequency>\n<modules>\n");
      for (std::int64_t i = 0; i < 4; ++i)
        put(out, "<module><n>", i + 1, "</n><voltage>", Fixed{r.cell[i], 3}, "</voltage><temperature>",
            Fixed{r.heat[i], 1}, "</temperature></module>\n");
      put(out, "</modules>\n<uptime>", (r.time - commissioned) / 1000 % 5'000'000, "</uptime>\n");
      append_alarm(out, "", r, false);
      put(out, "</bsu>\n");
      return;
    case Firmware::namespaces:
      put(out,
          "<?xml version=\"1.0\" encoding=\"utf-8\" standalone=\"yes\"?>\n<b:bsu xmlns:b=\"urn:example:bsu:4\" "
          "xmlns:m=\"urn:example:meter\" id=\"",
          name, "\" firmware=\"", version, "\" time=\"");
      append_time(out, r.time);
      put(out, "\">\n  <b:status>", r.status, "</b:status>\n  <m:power>", Fixed{r.power, 2}, "</m:power>\n  <m:energy>",
          Fixed{r.energy, 1}, "</m:energy>\n  <m:voltage>", Fixed{r.voltage, 1}, "</m:voltage>\n  <m:current>",
          Fixed{r.current, 2}, "</m:current>\n  <m:frequency>", Fixed{r.frequency, 3},
          "</m:frequency>\n  <b:temperature>", Fixed{r.temperature, 1}, "</b:temperature>\n  <b:soc>",
          Fixed{r.charge, 1}, "</b:soc>\n");
      for (std::int64_t i = 0; i < 4; ++i)
        put(out, "  <b:module n=\"", i + 1, "\" m:voltage=\"", Fixed{r.cell[i], 3}, "\" temperature=\"",
            Fixed{r.heat[i], 1}, "\"/>\n");
      put(out, "  <b:uptime>", (r.time - commissioned) / 1000 % 5'000'000, "</b:uptime>\n");
      append_alarm(out, "b:", r, false);
      put(out, "</b:bsu>\n");
      return;
    case Firmware::sunspec: {
      // SunSpec model 802, point ChaSt: 3 discharging, 4 charging, 6 holding.
      std::int64_t const charging = r.power > 100 ? 4 : r.power < -100 ? 3 : 6;
      put(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<SunSpecData v=\"1\">\n<d lid=\"", name,
          "\" ns=\"example\" man=\"Example\" mod=\"BSU\" sn=\"", name.substr(4), "\" t=\"");
      append_time(out, r.time);
      put(out, "\">\n<m id=\"1\"><p id=\"Mn\">Example</p><p id=\"Md\">BSU</p><p id=\"Vr\">", version,
          "</p></m>\n<m id=\"103\" x=\"1\"><p id=\"W\" u=\"W\">", r.power * 10, "</p><p id=\"Hz\" sf=\"-3\">",
          r.frequency, "</p><p id=\"WH\" u=\"Wh\">", r.energy * 100, "</p><p id=\"TmpCab\" u=\"C\">",
          Fixed{r.temperature, 1}, "</p></m>\n<m id=\"802\" x=\"1\">\n<p id=\"SoC\" u=\"%\">", Fixed{r.charge, 1},
          "</p>\n<p id=\"SoH\" u=\"%\">", Fixed{980 - static_cast<std::int64_t>(unit % 60), 1}, "</p>\n<p id=\"NCyc\">",
          (r.time - commissioned) / day, "</p>\n<p id=\"ChaSt\">", charging, "</p>\n<p id=\"V\" sf=\"-1\">", r.voltage,
          "</p>\n<p id=\"A\" sf=\"-2\">", r.current, "</p>\n<p id=\"W\">", r.power * 10, "</p>\n<p id=\"CellVMax\">",
          Fixed{*std::max_element(r.cell, r.cell + 4), 3}, "</p>\n<p id=\"CellVMin\">",
          Fixed{*std::min_element(r.cell, r.cell + 4), 3}, "</p>\n<p id=\"Evt1\">",
          r.alarm == 0 ? 0 : std::int64_t{1} << r.alarm, "</p>\n</m>\n</d>\n</SunSpecData>\n");
      return;
    }
  }
}

void Fleet::odd_document(std::string& out, std::size_t unit, Reading const& r) const {
  put(out, "<?xml version=\"1.0\"?>\n<device xmlns=\"urn:example:bsu:5\" serial=\"", id(unit),
      "\" firmware=\"5.0-beta\">\n"
      "  <measurement at=\"",
      r.time, "\">\n    <power><value>n/a</value></power>\n    <energy><value>", Fixed{r.energy, 1},
      "</value><unit>kWh</unit></energy>\n    <voltage>", Fixed{r.voltage, 1}, "</voltage>\n    <voltage>",
      Fixed{r.voltage, 1}, "</voltage>\n    <temperature/>\n    <soc>", r.charge / 10,
      " %</soc>\n  </measurement>\n"
      "  <status code=\"7\"><text>",
      r.status, "</text></status>\n</device>\n");
}

void Fleet::broken_document(std::string& out, std::size_t unit, Reading const& r, unsigned kind) const {
  auto const start = out.size();
  // Always the plain shape, whatever the firmware: the damage below relies on its text.
  document(out, unit, r, Firmware::attributes);
  auto const replace = [&](std::string_view what, std::string_view with) {
    out.replace(out.find(what, start), what.size(), with);
  };
  switch (kind % 6) {
    case 0:
      out.resize(start + (out.size() - start) * 3 / 5);
      return;  // ends in the middle
    case 1:
      replace("</power>", "</energy>");
      return;  // end tag of another element
    case 2:
      replace("<status>", "<status>AC & DC < 5 ");
      return;  // bare & and <
    case 3:
      replace(" firmware=\"3.1.4\"", " firmware=3.1.4");
      return;  // attribute without quotes
    case 4:
      replace("<status>", "<status>\xff\xfe ");
      return;  // not UTF-8
    default:
      out.replace(start, std::string::npos, "<html><body><h1>Busy</h1><br>please come again</body></html>\n");
      return;
  }
}

void Fleet::history_begin(std::string& out, std::size_t unit, std::int64_t since, std::int64_t until) const {
  put(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<history unit=\"", id(unit), "\" since=\"");
  append_time(out, since);
  put(out, "\" until=\"");
  append_time(out, until);
  put(out, "\">\n");
}

void Fleet::history_reading(std::string& out, Reading const& r) {
  put(out, "<reading time=\"");
  append_time(out, r.time);
  put(out, "\"><status>", r.status, "</status><power>", Fixed{r.power, 2}, "</power><energy>", Fixed{r.energy, 1},
      "</energy><voltage>", Fixed{r.voltage, 1}, "</voltage><current>", Fixed{r.current, 2}, "</current><temperature>",
      Fixed{r.temperature, 1}, "</temperature><soc>", Fixed{r.charge, 1}, "</soc></reading>\n");
}

void Fleet::history_end(std::string& out) { put(out, "</history>\n"); }

void append_time(std::string& out, std::int64_t time, int offset_minutes) {
  using namespace std::chrono;
  sys_time<milliseconds> const local{milliseconds(time) + minutes(offset_minutes)};
  auto const date = floor<days>(local);
  year_month_day const ymd{date};
  hh_mm_ss const clock{local - date};
  char text[] = "0000-00-00T00:00:00.000+00:00";
  auto const digits = [&](int at, int width, std::int64_t value) {
    for (int i = at + width - 1; i >= at; --i, value /= 10) text[i] = static_cast<char>('0' + value % 10);
  };
  digits(0, 4, int{ymd.year()});
  digits(5, 2, unsigned{ymd.month()});
  digits(8, 2, unsigned{ymd.day()});
  digits(11, 2, clock.hours().count());
  digits(14, 2, clock.minutes().count());
  digits(17, 2, clock.seconds().count());
  digits(20, 3, clock.subseconds().count());
  if (offset_minutes == 0) {
    out.append(text, 23) += 'Z';
    return;
  }
  if (offset_minutes < 0) text[23] = '-';
  digits(24, 2, std::abs(offset_minutes) / 60);
  digits(27, 2, std::abs(offset_minutes) % 60);
  out.append(text, 29);
}

std::optional<std::int64_t> parse_time(std::string_view text) {
  using namespace std::chrono;
  auto const number = [&](std::size_t at, std::size_t width) -> int {
    int value = 0;
    for (std::size_t i = at; i < at + width; ++i) {
      if (i >= text.size() || text[i] < '0' || text[i] > '9') return -1;
      value = value * 10 + (text[i] - '0');
    }
    return value;
  };
  if (text.size() < 20 || text[4] != '-' || text[7] != '-' || (text[10] != 'T' && text[10] != 't') || text[13] != ':' ||
      text[16] != ':')
    return std::nullopt;
  int const y = number(0, 4), mo = number(5, 2), d = number(8, 2), h = number(11, 2), mi = number(14, 2),
            s = number(17, 2);
  year_month_day const ymd{year{y}, month{static_cast<unsigned>(mo)}, std::chrono::day{static_cast<unsigned>(d)}};
  if (y < 0 || mo < 0 || d < 0 || !ymd.ok() || h < 0 || h > 23 || mi < 0 || mi > 59 || s < 0 || s > 60)
    return std::nullopt;
  std::size_t at = 19;
  std::int64_t ms = 0;
  if (text[at] == '.') {
    std::int64_t scale = 100;
    std::size_t const first = ++at;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at, scale /= 10) ms += (text[at] - '0') * scale;
    if (at == first) return std::nullopt;
  }
  int offset = 0;
  std::string_view const zone = text.substr(at);
  if (zone != "Z" && zone != "z") {
    int const oh = number(at + 1, 2), om = number(at + 4, 2);
    if (zone.size() != 6 || zone[3] != ':' || oh < 0 || oh > 23 || om < 0 || om > 59) return std::nullopt;
    if (zone[0] != '+' && zone[0] != '-' && zone[0] != ' ') return std::nullopt;
    offset = (zone[0] == '-' ? -1 : 1) * (oh * 60 + om);
  }
  auto const whole = sys_days{ymd} + hours(h) + minutes(mi) + seconds(s) - minutes(offset);
  return milliseconds(whole.time_since_epoch()).count() + ms;
}

}  // namespace inflight::sim
