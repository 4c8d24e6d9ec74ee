#include "common/zstd_frames.h"

#include <fmt/format.h>
#include <zstd.h>

#include <new>
#include <stdexcept>
#include <vector>

#include "common/handle.h"

namespace inflight {

namespace {
constexpr std::size_t kInOneCall = 2 << 20;  // of what is longer zstd keeps a copy of its window
}  // namespace

struct FrameCompressor::State {
  Handle<ZSTD_CCtx, ZSTD_freeCCtx> context{ZSTD_createCCtx()};
  std::vector<char> out = std::vector<char>(ZSTD_compressBound(kInOneCall));
};

FrameCompressor::FrameCompressor(int level) : state_(std::make_unique<State>()) {
  if (!state_->context) throw std::bad_alloc();
  ZSTD_CCtx_setParameter(state_->context.get(), ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(state_->context.get(), ZSTD_c_checksumFlag, 1);
}

FrameCompressor::~FrameCompressor() = default;

void FrameCompressor::compress(std::string_view text, std::string_view end,
                               std::function<void(std::string_view)> const& take) {
  ZSTD_CCtx* const context = state_->context.get();
  auto const good = [](std::size_t code) {
    if (ZSTD_isError(code)) throw std::runtime_error(fmt::format("zstd: {}", ZSTD_getErrorName(code)));
    return code;
  };
  std::vector<char>& out = state_->out;
  if (end.empty() && text.size() <= kInOneCall) {
    take({out.data(), good(ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size()))});
    return;
  }
  good(ZSTD_CCtx_reset(context, ZSTD_reset_session_only));
  good(ZSTD_CCtx_setPledgedSrcSize(context, text.size() + end.size()));
  for (int piece = 0; piece < 2; ++piece) {
    std::string_view const bytes = piece == 0 ? text : end;
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    bool const last = piece == 1;
    for (std::size_t left = 1; last ? left != 0 : in.pos < in.size;) {
      ZSTD_outBuffer to{out.data(), out.size(), 0};
      left = good(ZSTD_compressStream2(context, &to, &in, last ? ZSTD_e_end : ZSTD_e_continue));
      take({out.data(), to.pos});
    }
  }
}

struct FrameReader::State {
  Handle<ZSTD_DCtx, ZSTD_freeDCtx> context{ZSTD_createDCtx()};
  std::vector<char> out = std::vector<char>(ZSTD_DStreamOutSize());
  std::size_t open = 0;     // not 0: a frame has not ended
  std::uint64_t total = 0;  // that was read
};

FrameReader::FrameReader() : state_(std::make_unique<State>()) {
  if (!state_->context) throw std::bad_alloc();
}
FrameReader::~FrameReader() = default;

bool FrameReader::inside() const { return state_->open != 0; }

std::string FrameReader::read(std::string_view bytes, std::function<void(std::string_view)> const& take,
                              std::function<void(std::size_t)> const& ended) {
  std::vector<char>& plain = state_->out;
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  for (bool full = false; in.pos < in.size || full;) {
    ZSTD_outBuffer out{plain.data(), plain.size(), 0};
    state_->open = ZSTD_decompressStream(state_->context.get(), &out, &in);
    if (ZSTD_isError(state_->open))
      return fmt::format("byte {} or before: {}", state_->total + in.pos, ZSTD_getErrorName(state_->open));
    full = out.pos == out.size && state_->open != 0;
    if (out.pos > 0) take({plain.data(), out.pos});
    if (state_->open == 0) ended(in.pos);
  }
  state_->total += bytes.size();
  return "";
}

}  // namespace inflight
