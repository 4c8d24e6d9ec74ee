// The HTTP side of rtdb-emulator: the REST API of the Firebase Realtime Database, its streams, and the faults that are
// switched on and off.
//
// What is said of a behaviour names the vendor's page; [ref] is
// https://firebase.google.com/docs/reference/rest/database, [get] …/docs/database/rest/retrieve-data, [save]
// …/docs/database/rest/save-data, [auth] …/docs/database/rest/auth, [limits] …/docs/database/usage/limits.
#pragma once

#include <microhttpd.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>
#include <string_view>

#include "tests/servers/rtdb_tree.h"

namespace inflight::sim {

struct RtdbOptions {
  std::uint16_t port = 0;
  std::string collection = "orders";
  std::uint64_t documents = 0, seed = 1;
  bool flat = false;  // documents are numbers: for very many of them
  std::string data;   // a log of all writes, read at the start
  std::string keep_alive = "30s";
  std::uint64_t max_response = 256'000'000, max_write = 256'000'000;  // [limits]
  std::uint64_t max_range = 0;  // bytes between the bounds of a query, whatever its limit; 0: as many as there are
  std::string tokens;           // that are accepted, by commas; empty: no token is asked for
};

// How many there were in the second that had most, whenever it began.
class BusiestSecond {
 public:
  void add(std::uint64_t count);
  [[nodiscard]] std::uint64_t peak() const { return peak_; }
  void reset() { *this = {}; }

 private:
  std::deque<std::pair<std::chrono::steady_clock::time_point, std::uint64_t>> second_;
  std::uint64_t within_ = 0, peak_ = 0;
};

class Rtdb {
 public:
  explicit Rtdb(RtdbOptions const& options);
  ~Rtdb();
  Rtdb(Rtdb const&) = delete;
  Rtdb& operator=(Rtdb const&) = delete;

  void start();
  [[nodiscard]] unsigned port() const { return port_; }

  // One client of a stream; its thread waits for what is to be sent.
  struct Stream {
    Path path;
    std::string token;
    std::deque<std::string> queue;
    std::size_t sent = 0;  // of the first one
    bool closing = false, silent = false;
    int socket = -1;
    std::chrono::steady_clock::time_point last{};
  };
  std::ptrdiff_t stream_bytes(Stream& stream, char* to, std::size_t most);
  void end_stream(Stream* stream);

 private:
  enum Kind : std::size_t { get, shallow, query, put, patch, post, remove, stream, kinds };
  struct Fault {
    std::string name;
    std::string kind;         // of requests; empty: all
    std::int64_t count = -1;  // -1: until it is taken away
    std::int64_t delay = 0;   // ms
    unsigned status = 0;
  };
  struct Request {
    std::string body;
    bool too_large = false, counted = false;
  };
  struct Answer {
    unsigned status = 200;
    std::string body;
    std::string etag{};
    std::string location{};
    std::string type = "application/json; charset=utf-8";
    bool cut = false;
  };

  static MHD_Result on_request(void* self, MHD_Connection*, char const* url, char const* method, char const* version,
                               char const* upload, std::size_t* upload_size, void** state);
  static void on_completed(void* self, MHD_Connection*, void** state, MHD_RequestTerminationCode code);

  MHD_Result route(MHD_Connection*, std::string_view url, std::string_view method, Request& request);
  MHD_Result database(MHD_Connection*, std::string_view url, std::string_view method, Request& request);
  MHD_Result begin_stream(MHD_Connection*, Path path, std::string token, Request& request);
  MHD_Result send(MHD_Connection*, Request& request, Answer const& answer);
  void ended(Request& request);  // is in flight no longer
  Answer read(MHD_Connection*, Path const& path);
  Answer write(MHD_Connection*, std::string_view method, Path path, Request const& request);
  // Changes the tree, tells the streams, and writes the log. `parts`: as a PATCH has it, else one with an empty path.
  void apply(Path const& path, std::vector<std::pair<Path, Node>> parts, bool update);
  void store(Path const& path, std::vector<std::pair<Path, Node>> parts);
  void tell(Path const& at, bool update, std::vector<Path> const& changed);
  Answer control(MHD_Connection*);
  void control_streams(std::string_view what);
  [[nodiscard]] std::string stats();
  std::optional<Fault> take_fault(Kind kind);
  // Empty: it may; otherwise the answer's `error`.
  [[nodiscard]] std::string refused(std::string const& token);
  void load();

  RtdbOptions options_;
  std::chrono::milliseconds keep_alive_{};
  std::shared_mutex tree_mutex_;  // before mutex_
  Node tree_;
  std::mutex mutex_;  // of all that follows
  std::condition_variable changed_;
  std::list<Stream> streams_;
  std::deque<Fault> faults_;
  std::set<std::string> tokens_, expired_;
  std::array<std::uint64_t, kinds> by_kind_{};
  std::uint64_t requests_ = 0, documents_ = 0, failures_ = 0, pushes_ = 0, streams_begun_ = 0;
  std::int64_t in_flight_ = 0, in_flight_peak_ = 0;
  BusiestSecond request_rate_, document_rate_;
  bool ending_ = false;
  int log_ = -1;
  MHD_Daemon* daemon_ = nullptr;
  unsigned port_ = 0;
};

}  // namespace inflight::sim
