#include "common/journal_tail.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "common/messages.h"

namespace inflight::journal {
namespace {

Result<std::uint64_t> count_lines(int fd, std::uint64_t from, std::string const& path) {
  std::uint64_t lines = 0;
  std::string bytes(std::size_t{1} << 16, '\0');
  for (;;) {
    auto const got = read_at(fd, bytes.data(), bytes.size(), from, path);
    if (!got) return got.status();
    if (*got == 0) return lines;
    lines += static_cast<std::uint64_t>(std::count(bytes.data(), bytes.data() + *got, '\n'));
    from += *got;
  }
}

Result<std::uint64_t> length_of(std::string const& path) {
  auto const fd = real_disk().open(path, O_RDONLY);
  if (!fd) return fd.status();
  return file_size(fd->get(), path);
}

}  // namespace

Status Tail::catch_up() {
  if (segment_) {
    auto const same = unchanged();
    if (!same) return same.status();
    if (*same) return {};
  }
  return open_last();
}

Result<bool> Tail::unchanged() const {
  auto const mark = segment_->index.mark();
  if (!mark) return mark.status();
  auto const index_size = segment_->index.size();
  if (!index_size) return index_size.status();
  auto const data_size = file_size(segment_->data.get(), segment_->data_path);
  if (!data_size) return data_size.status();
  bool const whole = *index_size == kRecordsAt + mark->count * kRecordSize && *data_size == mark->length;
  if (*mark != segment_->mark || mark->sealed || !whole) return false;
  // A writer that was killed before it sealed this segment may have begun the next one.
  return mark->count == 0 || !exists(index_path(folder_, mark->end));
}

Status Tail::open_last() {
  segment_.reset();
  auto const names = list_folder(folder_);
  if (!names) return names.status();
  for (std::string const& name : *names) {
    if (name.size() < 4 || name.compare(name.size() - 4, 4, ".tmp") != 0) continue;
    if (Status status = disk_.remove(join(folder_, name)); !status.ok()) return status;
  }
  auto const firsts = list_segments(folder_);
  if (!firsts) return firsts.status();
  auto const data = list_data(folder_);
  if (!data) return data.status();
  for (std::uint64_t const first : *data) {
    if (!firsts->empty() && first <= firsts->back()) continue;
    std::string const path = data_path(folder_, first);
    auto const length = length_of(path);
    if (!length) return length.status();
    if (*length > 0) return Status::defect(path + ": has lost its index");
  }
  if (firsts->empty()) return {};

  std::uint64_t const first = firsts->back();
  auto index = Index::open(disk_, folder_, first, id_, O_RDWR);
  if (!index) return index.status();
  if (index->header_damaged()) {
    say_warning(index->path() + ": the header is damaged; written again");
    if (Status status = index->mend_header(disk_, id_); !status.ok()) return status;
  }
  Segment segment{std::move(*index), Fd{}, data_path(folder_, first), Mark{}};
  auto fd = disk_.open(segment.data_path, O_RDWR | O_CREAT);
  if (!fd) return fd.status();
  segment.data = std::move(*fd);
  if (firsts->size() > 1) {
    if (Status status = seal_before((*firsts)[firsts->size() - 2], first); !status.ok()) return status;
  }
  if (Status status = recover(segment); !status.ok()) return status;
  // Whoever made a segment may have been killed before its name was durable.
  if (segment.mark.count == 0) {
    if (Status status = disk_.sync_folder(folder_); !status.ok()) return status;
  }
  segment_ = std::move(segment);
  return {};
}

Status Tail::recover(Segment& segment) {
  Index const& index = segment.index;
  auto const mark = index.mark();
  if (!mark) return mark.status();
  auto const index_size = index.size();
  if (!index_size) return index_size.status();
  auto const data_size = file_size(segment.data.get(), segment.data_path);
  if (!data_size) return data_size.status();
  segment.mark = *mark;
  if (mark->sealed) return {};

  std::uint64_t const committed = kRecordsAt + mark->count * kRecordSize;
  bool lost = *index_size < committed || *data_size < mark->length;
  Mark found = *mark;
  std::uint64_t end = mark->end;
  auto const capacity = index.capacity();
  if (!capacity) return capacity.status();
  for (std::uint64_t number = mark->count; number < *capacity; ++number) {
    auto const record = index.read(number);
    if (!record) return record.status();
    if (!*record || (*record)->first < end) continue;
    auto const intact = renew(segment, number, **record);
    if (!intact) return intact.status();
    if (!*intact) continue;
    bool const follows = number == found.count && (*record)->first == found.end && (*record)->offset == found.length;
    if (!lost && follows) {
      found.count = number + 1;
      found.end = (*record)->end();
      found.length = (*record)->offset + (*record)->length;
    } else {
      lost = true;
    }
    end = (*record)->end();
  }
  if (lost) {
    auto const lines = count_lines(segment.data.get(), found.length, segment.data_path);
    if (!lines) return lines.status();
    end = std::max(end, found.end + *lines);
    say_warning(fmt::format(
        "{}: acknowledged events are missing: {} of {} bytes of data, {} of {} bytes of index; going on at {}",
        segment.data_path, *data_size, mark->length, *index_size, committed, end));
    found.end = end;
    found.sealed = true;
  } else if (*index_size != kRecordsAt + found.count * kRecordSize || *data_size != found.length) {
    if (Status status = cut(segment, found); !status.ok()) return status;
  }
  if (found == *mark && mark->sequence > 0) return {};
  if (Status status = disk_.sync(segment.data.get(), segment.data_path); !status.ok()) return status;
  if (Status status = disk_.sync(index.fd(), index.path()); !status.ok()) return status;
  return set_mark(segment, found);
}

Result<bool> Tail::renew(Segment& segment, std::uint64_t number, IndexRecord const& record) {
  auto const size = file_size(segment.data.get(), segment.data_path);
  if (!size) return size.status();
  if (record.offset > *size || record.length > *size - record.offset) return false;
  std::unique_ptr<char[]> const bytes(new char[record.length]);
  auto const got = read_at(segment.data.get(), bytes.get(), record.length, record.offset, segment.data_path);
  if (!got) return got.status();
  std::string_view const data(bytes.get(), *got);
  if (*got < record.length || checksum(data) != record.checksum) return false;
  if (Status status = disk_.write_at(segment.data.get(), data, record.offset, segment.data_path); !status.ok())
    return status;
  if (Status status = segment.index.write(disk_, number, record); !status.ok()) return status;
  return true;
}

Status Tail::seal_before(std::uint64_t first, std::uint64_t successor) {
  auto const index = Index::open(disk_, folder_, first, id_, O_RDWR);
  if (!index) return {};  // readers will tell; what follows is not concerned
  auto mark = index->mark();
  if (!mark) return mark.status();
  if (mark->sealed && mark->end == successor) return {};
  ++mark->sequence;
  mark->end = successor;
  mark->sealed = true;
  return index->write_mark(disk_, *mark);
}

Status Tail::make_room(std::uint64_t segment_bytes) {
  if (segment_ && !segment_->mark.sealed && (segment_->mark.count == 0 || segment_->mark.length < segment_bytes))
    return {};
  if (!segment_) return begin(0, false);
  Mark const mark = segment_->mark;
  Segment const old = std::move(*segment_);
  segment_.reset();
  if (Status status = begin(mark.end, mark.end == old.index.first()); !status.ok()) return status;
  if (mark.sealed) return {};
  Mark sealed = mark;
  ++sealed.sequence;
  sealed.sealed = true;
  Status status = old.index.write_mark(disk_, sealed);
  if (!status.ok()) segment_.reset();  // catch_up() will seal it
  return status;
}

Status Tail::begin(std::uint64_t first, bool replaces) {
  std::string const path = data_path(folder_, first);
  std::string const index_name = index_path(folder_, first);
  if (replaces) {
    if (Status status = disk_.remove(path); !status.ok()) return status;
  } else if (exists(index_name)) {
    return Status::defect(index_name + ": exists already");
  }
  auto fd = disk_.open(path, O_RDWR | O_CREAT);
  if (!fd) return fd.status();
  auto const size = file_size(fd->get(), path);
  if (!size) return size.status();
  if (*size > 0) return Status::defect(path + ": has lost its index");
  if (Status status = disk_.sync(fd->get(), path); !status.ok()) return status;
  if (Status status = replace_file(disk_, index_name, Index::fresh(id_, first)); !status.ok()) return status;
  auto index = Index::open(disk_, folder_, first, id_, O_RDWR);
  if (!index) return index.status();
  auto const mark = index->mark();
  if (!mark) return mark.status();
  segment_ = Segment{std::move(*index), std::move(*fd), path, *mark};
  return {};
}

Status Tail::append(std::string_view data, std::uint64_t count, Time committed) {
  Segment& segment = *segment_;
  Index const& index = segment.index;
  Mark const before = segment.mark;
  IndexRecord const record{before.end, count, before.length, data.size(), checksum(data), committed};
  Mark after = before;
  after.count += 1;
  after.end += count;
  after.length += data.size();

  Status status = disk_.write_at(segment.data.get(), data, record.offset, segment.data_path);
  if (status.ok()) status = index.write(disk_, before.count, record);
  if (status.ok()) {
    // Only a hint: the index is under way while the data are synced, so that one journal commit serves both.
    (void)::sync_file_range(index.fd(), 0, 0, SYNC_FILE_RANGE_WRITE);
    Status synced = disk_.sync(segment.data.get(), segment.data_path);
    if (synced.ok()) synced = disk_.sync(index.fd(), index.path());
    if (!synced.ok()) {
      (void)cut(segment, before);
      Mark sealed = before;
      sealed.sealed = true;
      if (set_mark(segment, sealed).ok()) (void)disk_.sync(index.fd(), index.path());
      return Status::defect(synced.what());
    }
    status = set_mark(segment, after);
  }
  if (status.ok()) return {};
  // A record that stayed would be rolled forward, though the caller is told that nothing has changed. Where it was the
  // mark that failed, the record is on the disk already.
  Status undone = cut(segment, before);
  if (undone.ok()) undone = disk_.sync(index.fd(), index.path());
  if (!undone.ok()) return Status::defect(status.what() + "; " + undone.what());
  return status;
}

Status Tail::cut(Segment& segment, Mark const& mark) {
  std::uint64_t const index_length = kRecordsAt + mark.count * kRecordSize;
  if (Status status = disk_.truncate(segment.index.fd(), index_length, segment.index.path()); !status.ok())
    return status;
  return disk_.truncate(segment.data.get(), mark.length, segment.data_path);
}

Status Tail::set_mark(Segment& segment, Mark mark) {
  mark.sequence = segment.mark.sequence + 1;
  Status status = segment.index.write_mark(disk_, mark);
  if (!status.ok()) {
    // What failed may have been written all the same, and then readers have seen it.
    auto const now = segment.index.mark();
    if (!now || *now != mark) return status;
  }
  segment.mark = mark;
  return {};
}

}  // namespace inflight::journal
