import { integer } from '@signalbox/config/settings';

/** What a service reads for its routes that write. */
export const writeSettings = {
  acceptTimeoutMs: integer({
    env: 'ACCEPT_TIMEOUT_MS',
    doc: 'How long a message is tried to be stored, with the same ids, before 503.',
    default: 5_000,
    min: 100,
    max: 60_000,
  }),
  idempotencyKeepHours: integer({
    env: 'IDEMPOTENCY_KEEP_HOURS',
    doc: 'How long the answer to an Idempotency-Key is kept.',
    default: 24,
    min: 1,
    max: 8_760,
  }),
};
