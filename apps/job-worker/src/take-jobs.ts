import { headerNames } from '@signalbox/contracts/headers';
import { readValue } from '@signalbox/contracts/validate';
import type { AppendHandler } from '@signalbox/messaging/messaging';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { JobStore } from './job-store.ts';

export interface TakeJobsParts {
  readonly database: Pick<Database, 'transaction'>;
  readonly store: Pick<JobStore, 'take'>;
  readonly duplicates: (consumer: string, count: number) => void;
  readonly consumer: string;
  readonly log: Logger;
}

/** Under the bound of a handler. */
const transactionMs = 3_000;

/**
 * Intake of `job.requested`: each job becomes its row and the queue's job, in one transaction, once for its id. The row is
 * the inbox.
 */
export function takeJobs({ database, store, duplicates, consumer, log }: TakeJobsParts): AppendHandler {
  return async (records) => {
    const repeated = await database.transaction(
      async (tx) => {
        let known = 0;
        // By tenant, as every replica: the first job of a tenant makes its queue, and two that wait for each other's are a ring.
        const inOrder = records.toSorted((one, other) =>
          one.tenant < other.tenant ? -1 : Number(one.tenant > other.tenant),
        );
        for (const { tenant, value, traceparent, headers } of inOrder) {
          const job = readValue('jobs.commands', 'job.requested', value);
          if (job === undefined) continue;
          const requestId = headers[headerNames.requestId];
          const fresh = await store.take(tx, { tenant, job, traceparent, requestId });
          if (fresh) log.debug('job.taken', { tenantId: tenant, jobId: job.job_id, kind: job.kind });
          else known += 1;
        }
        return known;
      },
      { timeoutMs: transactionMs },
    );
    duplicates(consumer, repeated);
  };
}
