// The HTTP side of bsu-sim: which request gets which answer, and the faults that are switched on and off.
#pragma once

#include <microhttpd.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/servers/bsu_fleet.h"
#include "tests/servers/bsu_options.h"
#include "tests/servers/bsu_unit.h"
#include "tests/servers/held_connections.h"

namespace inflight::sim {

class Sim {
 public:
  explicit Sim(Options const& options);
  ~Sim();
  Sim(Sim const&) = delete;
  Sim& operator=(Sim const&) = delete;

  void start();
  [[nodiscard]] unsigned port() const { return port_; }
  void write_devices(std::string const& path) const;

 private:
  static MHD_Result on_request(void* self, MHD_Connection*, char const* url, char const* method, char const* version,
                               char const* upload, std::size_t* upload_size, void** state);
  static void on_completed(void* self, MHD_Connection*, void** state, MHD_RequestTerminationCode code);
  static void on_connection(void* self, MHD_Connection*, void** state, MHD_ConnectionNotificationCode code);

  MHD_Result route(MHD_Connection*, std::string_view url, bool post, void** state);
  MHD_Result unit_request(MHD_Connection*, std::size_t unit, bool history, void** state);
  MHD_Result reading(MHD_Connection*, std::size_t unit, bool late);
  MHD_Result history(MHD_Connection*, std::size_t unit);
  MHD_Result error(MHD_Connection*, std::size_t unit);
  MHD_Result control(MHD_Connection*);
  MHD_Result not_found(MHD_Connection*);
  MHD_Result bad_request(MHD_Connection*, std::string_view why);

  void share_faults(std::vector<std::size_t> const& order);
  std::size_t set_faults(MHD_Connection*);
  void answered(std::size_t unit, Outcome outcome, unsigned status, std::int64_t time);
  [[nodiscard]] std::int64_t now() const { return fixed_now_ ? *fixed_now_ : wall_ms(); }
  std::int64_t next_time(Unit& unit) const;
  [[nodiscard]] bool unchanged(MHD_Connection*, std::string_view etag, std::int64_t time) const;
  [[nodiscard]] std::string fleet_stats() const;
  [[nodiscard]] std::string unit_stats(std::size_t unit) const;

  Options const& options_;
  Fleet fleet_;
  std::vector<Unit> units_;
  std::int64_t change_every_ = 0;  // ms; 0: every answer is new
  std::int64_t cadence_ = 0;
  std::optional<std::int64_t> fixed_now_;
  int log_ = -1;
  std::atomic<std::uint64_t> sequence_{0};
  std::atomic<std::uint64_t> not_found_{0}, bad_requests_{0};
  std::atomic<std::int64_t> open_{0}, open_peak_{0}, accepted_{0};
  HeldConnections held_;
  MHD_Daemon* daemon_ = nullptr;
  unsigned port_ = 0;
};

}  // namespace inflight::sim
