import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

/** The members of kafkajs' internal RequestQueue that the override touches. */
interface RequestQueue {
  throttledUntil: number;
  throttleCheckTimeoutId: NodeJS.Timeout | null;
  pending: unknown[];
  checkPendingRequests(): void;
}

const checkPendingRequestsIntervalMs = 10;
let patched = false;

/**
 * kafkajs issue 1751: `scheduleCheckPendingRequests` re-arms a timer with a negative delay on every connection, a 1 ms
 * loop that burns 3 % of a core in an idle consumer and prints a warning on Node 24. Here a timer runs only while
 * requests are pending; nothing else needs one, for a fulfilled request checks the queue itself. Idempotent.
 */
export function patchRequestQueueTimer(): void {
  if (patched) return;
  patched = true;
  const queue: {
    prototype: RequestQueue & { scheduleCheckPendingRequests(): void };
  } = require('kafkajs/src/network/requestQueue');
  queue.prototype.scheduleCheckPendingRequests = function schedule(this: RequestQueue): void {
    if (this.throttleCheckTimeoutId !== null || this.pending.length === 0) return;
    const throttledMs = this.throttledUntil - Date.now();
    this.throttleCheckTimeoutId = setTimeout(
      () => {
        this.throttleCheckTimeoutId = null;
        this.checkPendingRequests();
      },
      throttledMs > 0 ? throttledMs : checkPendingRequestsIntervalMs,
    );
  };
}
