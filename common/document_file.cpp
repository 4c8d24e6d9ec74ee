#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "common/document_source.h"
#include "common/fd_io.h"
#include "common/url.h"

namespace inflight {

namespace {

// The path of `file:///a%20b` or `file:/a%20b` (RFC 8089); Code::rejected: it has none on this machine.
Result<std::string> path_of_file(std::string_view reference) {
  auto const wrong = [&](char const* why) {
    return Status::rejected(fmt::format("{}: {}", public_url(reference), why));
  };
  std::string_view rest = reference.substr(5);
  if (rest.starts_with("//")) {
    rest.remove_prefix(2);
    std::string_view const host = rest.substr(0, rest.find('/'));
    if (!host.empty() && host != "localhost") return wrong("a file of another machine");
    rest.remove_prefix(host.size());
  }
  if (!rest.starts_with('/')) return wrong("not file:///PATH");
  if (rest.find_first_of("?#") != std::string_view::npos) return wrong("'?' and '#' in a name are %3F and %23");
  std::string path = percent_decode(rest);
  if (path.find('\0') != std::string::npos) return wrong("a NUL in its name");
  return path;
}

std::string real_path(std::string const& path) {
  std::unique_ptr<char, decltype(&std::free)> const real(::realpath(path.c_str(), nullptr), &std::free);
  return real ? real.get() : "";
}

bool is_below(std::string_view path, std::string_view root) {
  return path.starts_with(root) && (path.size() == root.size() || root == "/" || path[root.size()] == '/');
}

// Files below the folders that the operator has named, wherever dots and symbolic links lead. Read at once: a disk
// answers sooner than it could be waited for.
class FileDocuments final : public DocumentSource {
 public:
  FileDocuments(std::vector<std::string> roots, std::uint64_t most) : roots_(std::move(roots)), most_(most) {}

  std::string fault(std::string_view reference) const override {
    auto const path = path_of_file(reference);
    return path ? "" : "dataref: " + path.status().what();
  }

  void start(std::string_view reference, Done done) override {
    DocumentAnswer answer;
    answer.what = "the file";
    answer.status = read(*path_of_file(reference), answer);
    done(answer);
  }

  std::size_t under_way() const override { return 0; }
  Status turn(Duration) override { return {}; }

 private:
  Status read(std::string const& path, DocumentAnswer& answer) const {
    // What is opened first can only be looked at; it is checked, and then that very file is read.
    Fd const found(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!found) return failure(path, errno, answer);
    std::string const self = fmt::format("/proc/self/fd/{}", found.get());
    std::array<char, PATH_MAX> real{};
    ssize_t const size = ::readlink(self.c_str(), real.data(), real.size());
    if (size < 0) return Status::usage(fmt::format("{}: {}", self, std::strerror(errno)));
    if (Status status = check({real.data(), static_cast<std::size_t>(size)}, path); !status.ok()) return status;
    struct stat info {};
    if (::fstat(found.get(), &info) != 0) return failure(path, errno, answer);
    if (!S_ISREG(info.st_mode)) return Status::rejected(fmt::format("{}: is no regular file", path));
    Fd const fd(::open(self.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return failure(path, errno, answer);
    if (static_cast<std::uint64_t>(info.st_size) > most_)
      return Status::rejected(fmt::format("{}: larger than {} bytes", path, most_));
    answer.body.resize(static_cast<std::size_t>(info.st_size));
    auto const got = read_at(fd.get(), answer.body.data(), answer.body.size(), 0, path);
    if (!got) return got.status();
    answer.body.resize(*got);
    return {};
  }

  Status check(std::string_view real, std::string const& path) const {
    bool gone = false;
    for (std::string const& root : roots_) {
      // Anew each time: it may be a link to the newest of several folders.
      std::string const now = real_path(root);
      if (!now.empty() && is_below(real, now)) return {};
      gone = gone || now.empty();
    }
    return gone ? Status::temporary(fmt::format("{}: a folder of --under is gone", path))
                : Status::rejected(fmt::format("dataref: not under any --under: file://{}", path));
  }

  Status failure(std::string const& path, int error, DocumentAnswer& answer) const {
    Status status = Status::from_errno(path, error);
    if (error == ENAMETOOLONG || error == ELOOP || error == ENXIO) return Status::rejected(status.what());
    if (error != ENOENT && error != ENOTDIR && error != EACCES) return status;
    answer.doubts = 1;
    // A folder that is not mounted is no news of what was in it, nor is what lies elsewhere.
    std::string folder = path;
    while (folder.size() > 1 && real_path(folder).empty()) folder = parent_folder(folder);
    if (Status under = check(real_path(folder), path); !under.ok()) {
      answer.doubts = 0;
      return under;
    }
    answer.missing = error != EACCES;
    return status;
  }

  std::vector<std::string> roots_;
  std::uint64_t most_;
};

}  // namespace

Result<std::unique_ptr<DocumentSource>> file_documents(DocumentOptions const& options) {
  std::vector<std::string> roots;
  for (std::string const& one : options.under) {
    if (!is_file_url(one)) continue;
    auto path = path_of_file(one);
    if (!path) return Status::usage("--under: " + path.status().what());
    if (real_path(*path).empty()) return Status::from_errno("--under: " + *path, errno);
    roots.push_back(std::move(*path));
  }
  return std::unique_ptr<DocumentSource>(std::make_unique<FileDocuments>(std::move(roots), options.http.max_body));
}

}  // namespace inflight
