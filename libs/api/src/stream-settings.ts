import { integer } from '@signalbox/config/settings';

/** How a service keeps its event streams to clients. */
export const streamSettings = {
  streamKeepaliveMs: integer({
    env: 'STREAM_KEEPALIVE_MS',
    doc: 'An idle event stream gets a comment, a WebSocket a ping, this often.',
    default: 15_000,
    min: 100,
    max: 120_000,
  }),
  streamRetryMs: integer({
    env: 'STREAM_RETRY_MS',
    doc: 'What an event stream tells its client to wait before it connects again.',
    default: 2_000,
    min: 0,
    max: 60_000,
  }),
  streamMaxBufferedBytes: integer({
    env: 'STREAM_MAX_BUFFERED_BYTES',
    doc: 'A reader that lets more than this wait for it is cut. Larger than any one event: about 1 MB, more when escaped.',
    default: 8_388_608,
    min: 1_048_576,
    max: 67_108_864,
  }),
  streamMaxStallMs: integer({
    env: 'STREAM_MAX_STALL_MS',
    doc: 'A reader that takes nothing of what waits for it in this time is cut.',
    default: 30_000,
    min: 100,
    max: 600_000,
  }),
};
