import { integer } from './settings.ts';

/** Bounds of the outbox (docs: delivery rules 5 to 8). */
export const outboxSettings = {
  outboxMaxRows: integer({
    env: 'OUTBOX_MAX_ROWS',
    doc: 'Accepts answer 503 while more rows than this wait for the broker.',
    default: 100_000,
    min: 1,
  }),
  outboxFastMaxRows: integer({
    env: 'OUTBOX_FAST_MAX_ROWS',
    doc: 'Rows that a process publishes by itself right after the commit; past it they are left to outbox-sync.',
    default: 5_000,
    min: 1,
  }),
  outboxFastMaxAgeMs: integer({
    env: 'OUTBOX_FAST_MAX_AGE_MS',
    doc: 'How long a process tries to publish a row by itself before it leaves it to outbox-sync.',
    default: 2_000,
    min: 1,
  }),
  outboxPollMs: integer({
    env: 'OUTBOX_POLL_MS',
    doc: 'Pause between two looks of outbox-sync; a notification wakes it earlier.',
    default: 500,
    min: 10,
    max: 60_000,
  }),
  outboxStaleMs: integer({
    env: 'OUTBOX_STALE_MS',
    doc: 'Age at which outbox-sync takes over a row that its writer has not sent.',
    default: 5_000,
    min: 100,
    max: 600_000,
  }),
};
