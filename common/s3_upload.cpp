#include "common/s3_upload.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/digest.h"
#include "common/json_text.h"
#include "common/s3_reader.h"
#include "common/url.h"

namespace inflight {

namespace {

constexpr std::uint64_t kPart = 16 << 20;
constexpr std::size_t kParts = 4;  // at once
constexpr std::size_t kChunk = 1 << 20;
constexpr std::pair<char const*, char const*> kOnlyNew{"If-None-Match", "*"};

using Put = ObjectStore::Put;

struct Sums {
  std::string sha256, md5;
};

Result<Sums> sums_of(int fd, std::uint64_t offset, std::uint64_t size, std::string const& file) {
  MessageDigest sha(MessageDigest::Kind::sha256), md(MessageDigest::Kind::md5);
  std::string buffer(std::min<std::uint64_t>(kChunk, size), '\0');
  for (std::uint64_t done = 0; done < size;) {
    auto got = read_at(fd, buffer.data(), std::min<std::uint64_t>(buffer.size(), size - done), offset + done, file);
    if (!got) return got.status();
    if (*got == 0) return Status::defect(file + ": is shorter than it was");
    sha.add({buffer.data(), *got});
    md.add({buffer.data(), *got});
    done += *got;
  }
  return Sums{sha.finish(), md.finish()};
}

std::string base64(std::string_view bytes) {
  std::string out;
  append_base64(out, bytes);
  return out;
}

}  // namespace

struct S3Upload::Local {
  std::string key, file;
  Fd fd;
  std::uint64_t size = 0, multipart = 0;
  std::string etag;         // that it will have; empty: not known yet
  std::vector<Sums> parts;  // one where it goes in one

  [[nodiscard]] bool single() const { return size <= multipart; }
  [[nodiscard]] std::uint64_t part() const { return std::min(kPart, multipart); }

  // AWS's rule: the MD5, or of several parts the MD5 of their MD5s and their number.
  Status sum() {
    if (!etag.empty()) return {};
    std::string all;
    for (std::uint64_t offset = 0; parts.empty() || offset < size; offset += part()) {
      auto sums = sums_of(fd.get(), offset, single() ? size : std::min(part(), size - offset), file);
      if (!sums) return sums.status();
      all += sums->md5;
      parts.push_back(std::move(*sums));
      if (single()) break;
    }
    etag = single() ? to_hex(all) : fmt::format("{}-{}", to_hex(md5(all)), parts.size());
    return {};
  }
};

Result<Put> S3Upload::put(std::string const& key, std::string const& file) {
  Local local;
  local.key = key;
  local.file = file;
  auto fd = disk_.open(file, O_RDONLY);
  if (!fd) return fd.status();
  local.fd = std::move(*fd);
  auto size = file_size(local.fd.get(), file);
  if (!size) return size.status();
  local.size = *size;
  local.multipart = multipart_;

  S3Answer const there = client_.ask({"HEAD", key}, S3Patience::short_time);
  if (there.status.ok()) {
    auto compared = compare(local, there.etag, there.total);
    // Who put it may have been killed before its parts were gone.
    if (compared && !local.single()) {
      if (Status status = remove_parts(key); !status.ok()) return status;
    }
    return compared;
  }
  if (there.http != 404) return there.status;
  if (Status status = local.sum(); !status.ok()) return status;
  return local.single() ? single(local) : in_parts(local);
}

Result<Put> S3Upload::single(Local& local) {
  for (;;) {
    S3Request request{"PUT", local.key};
    request.headers = {{"Content-Type", "application/zstd"}, {"Content-MD5", base64(local.parts[0].md5)}};
    if (conditional_) request.headers.emplace_back(kOnlyNew);
    request.file = {local.fd.get(), 0, local.size};
    request.payload_sha256 = to_hex(local.parts[0].sha256);
    S3Answer const answer = client_.ask(request, S3Patience::short_time);
    if (answer.status.ok()) {
      if (answer.etag == local.etag) return Put::created;
      auto compared = taken(local);
      return compared && *compared == Put::same ? Put::created : compared;
    }
    if (answer.http == 412) return taken(local);
    if (answer.http != 501 || !conditional_) return answer.status;
    conditional_ = false;
  }
}

Result<Put> S3Upload::taken(Local& local) {
  S3Answer const there = client_.ask({"HEAD", local.key}, S3Patience::short_time);
  if (there.http == 404) return Status::temporary(there.status.what());  // removed since
  if (!there.status.ok()) return there.status;
  return compare(local, there.etag, there.total);
}

Result<Put> S3Upload::compare(Local& local, std::string const& etag, std::uint64_t size) {
  if (size != local.size) return Put::different;
  if (Status status = local.sum(); !status.ok()) return status;
  if (etag == local.etag) return Put::same;
  // Other sizes of parts or encryption make other ETags of the same bytes.
  S3Reader reader(client_, S3Patience::short_time);
  std::string here(kChunk, '\0'), there(kChunk, '\0');
  for (std::uint64_t offset = 0; offset < size;) {
    auto left = read_at(local.fd.get(), here.data(), here.size(), offset, local.file);
    if (!left) return left.status();
    auto right = reader.get(local.key, offset, std::span(there.data(), there.size()));
    if (!right) return right.status();
    if (*left != *right || *left == 0 || std::memcmp(here.data(), there.data(), *left) != 0) return Put::different;
    offset += *left;
  }
  return Put::same;
}

// The key is of an object that this spool has completed, and nobody else's: so are all uploads to it.
Status S3Upload::remove_parts(std::string const& key) {
  S3Request request;
  request.query = {{"uploads", ""}, {"prefix", key}, {"encoding-type", "url"}};
  S3Answer const listed = client_.ask(request, S3Patience::short_time);
  if (!listed.status.ok()) return listed.status;
  nlohmann::json const xml = s3_xml(listed.body);
  if (!xml.is_object() || !xml.contains("ListMultipartUploadsResult"))
    return Status::temporary(fmt::format("{}: {}: no list of uploads", client_.name(key), client_.endpoint()));
  for (nlohmann::json const& upload :
       s3_element(xml, "ListMultipartUploadsResult").value("Upload", nlohmann::json::array())) {
    if (form_decode(s3_text(upload, "Key")) != key) continue;
    S3Request abort{"DELETE", key};
    abort.query = {{"uploadId", s3_text(upload, "UploadId")}};
    S3Answer const aborted = client_.ask(abort, S3Patience::short_time);
    if (!aborted.status.ok() && aborted.http != 404) return aborted.status;
  }
  return {};
}

Result<Put> S3Upload::in_parts(Local& local) {
  if (Status status = remove_parts(local.key); !status.ok()) return status;
  S3Request begin{"POST", local.key};
  begin.query = {{"uploads", ""}};
  begin.headers = {{"Content-Type", "application/zstd"}};
  begin.once = true;
  // Not tried again: an answer that was lost would leave an upload behind; the next attempt at all of it removes that.
  S3Answer const begun = client_.ask(begin, S3Patience::none);
  if (!begun.status.ok()) return begun.status;
  std::string const upload = s3_text(s3_element(s3_xml(begun.body), "InitiateMultipartUploadResult"), "UploadId");
  if (upload.empty())
    return Status::temporary(fmt::format("{}: {}: no UploadId", client_.name(local.key), client_.endpoint()));

  auto etags = send_parts(local, upload);
  auto outcome = etags ? complete(local, upload, *etags) : Result<Put>(etags.status());
  if (!outcome) {
    S3Request abort{"DELETE", local.key};
    abort.query = {{"uploadId", upload}};
    (void)client_.ask(abort, S3Patience::none);  // what is left is removed by the next attempt
    return outcome;
  }
  // A beginning that we gave up may have come late.
  if (Status status = remove_parts(local.key); !status.ok()) return status;
  return outcome;
}

Result<std::vector<std::string>> S3Upload::send_parts(Local const& local, std::string const& upload) {
  std::size_t const count = local.parts.size();
  std::vector<std::string> etags(count);
  auto part = [&](std::size_t i) {
    S3Request request{"PUT", local.key};
    request.query = {{"partNumber", std::to_string(i + 1)}, {"uploadId", upload}};
    request.headers = {{"Content-MD5", base64(local.parts[i].md5)}};
    request.file = {local.fd.get(), i * local.part(), std::min(local.part(), local.size - i * local.part())};
    request.payload_sha256 = to_hex(local.parts[i].sha256);
    return request;
  };
  std::vector<std::size_t> again;
  std::size_t under_way = 0;
  Status failed;
  for (std::size_t next = 0; next < count || under_way > 0;) {
    while (next < count && under_way < kParts && failed.ok()) {
      ++under_way;
      client_.start(part(next), [&, i = next](S3Answer& answer) {
        --under_way;
        etags[i] = answer.etag;
        if (answer.status.code() == Code::temporary) {
          again.push_back(i);
        } else if (!answer.status.ok()) {
          failed = answer.status;
        }
      });
      ++next;
    }
    if (under_way == 0) break;
    if (Status status = client_.wait(false); !status.ok()) failed = status;
  }
  for (std::size_t const i : again) {
    if (!failed.ok()) break;
    S3Answer const answer = client_.ask(part(i), S3Patience::short_time);
    etags[i] = answer.etag;
    failed = answer.status;
  }
  if (!failed.ok()) return failed;
  return etags;
}

Result<Put> S3Upload::complete(Local& local, std::string const& upload, std::vector<std::string> const& etags) {
  S3Request request{"POST", local.key};
  request.query = {{"uploadId", upload}};
  request.headers = {{"Content-Type", "application/xml"}};
  if (conditional_) request.headers.emplace_back(kOnlyNew);
  request.body = "<CompleteMultipartUpload>";
  for (std::size_t i = 0; i < etags.size(); ++i)
    request.body += fmt::format("<Part><PartNumber>{}</PartNumber><ETag>\"{}\"</ETag></Part>", i + 1, etags[i]);
  request.body += "</CompleteMultipartUpload>";
  S3Answer answer = client_.ask(request, S3Patience::short_time);
  if (answer.http == 501 && conditional_) {
    conditional_ = false;
    return complete(local, upload, etags);
  }
  if (answer.http == 412) {  // another one was first: the parts are nobody's
    S3Request abort{"DELETE", local.key};
    abort.query = {{"uploadId", upload}};
    (void)client_.ask(abort, S3Patience::short_time);
  }
  // Its answer may have been lost, and then there is no such upload any more: what stands there tells.
  auto compared = taken(local);
  if (!compared) return answer.status.ok() ? compared : Result<Put>(answer.status);
  return *compared == Put::same ? Put::created : *compared;
}

}  // namespace inflight
