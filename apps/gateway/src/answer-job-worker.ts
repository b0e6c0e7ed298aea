import { type Answerer, openAnswerer } from '@signalbox/messaging/answerer';
import type { Messaging } from '@signalbox/messaging/messaging';
import { type UpkeepTasks, upkeepAnswer } from '@signalbox/messaging/upkeep';
import type { Database } from '@signalbox/postgres/database';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { sessionPage } from './session-page.ts';

/** What job-worker has done here because the tables are the gateway's: upkeep, and pages of a session for an export. */
export function answerJobWorker(parts: {
  readonly messaging: Messaging;
  readonly service: string;
  readonly database: Database;
  readonly tasks: UpkeepTasks;
  readonly log: Logger;
  readonly metrics: Metrics;
}): Answerer {
  const { messaging, service, database, tasks, log, metrics } = parts;
  return openAnswerer({
    messaging,
    service,
    requests: 'jobs.commands',
    results: 'jobs.results',
    refused: 'jobs.refused',
    concurrency: 2,
    answers: {
      'upkeep.requested': upkeepAnswer(service, tasks),
      'session.page_asked': async ({ tenant, value }) => {
        const { session_id: sessionId, after, limit } = value;
        const page = await sessionPage(database, { tenant, sessionId }, after, limit);
        return { eventType: 'session.page', value: page };
      },
    },
    log,
    metrics,
  });
}
