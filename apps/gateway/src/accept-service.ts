import { createAcceptLoad } from '@signalbox/api/accept-load';
import { repeat } from '@signalbox/api/repeat';
import type { Messaging } from '@signalbox/messaging/messaging';
import type { Database } from '@signalbox/postgres/database';
import type { ProbeDetail } from '@signalbox/readiness/board';
import type { Counter, Logger, Metrics } from '@signalbox/telemetry/telemetry';
import {
  type AcceptedMessage,
  acceptRoute,
  createAcceptMessage,
  type PostedMessage,
} from './accept-message.ts';
import { type AcceptOutcome, type AcceptRow, createAcceptStore, findAnswer } from './accept-store.ts';
import { createPersonaCache } from './persona-cache.ts';
import { countOpenTurns, listPersonas } from './session-store.ts';
import type { GatewaySettings } from './settings.ts';
import { createTickBatcher } from './tick-batcher.ts';

export interface AcceptService {
  accept(posted: PostedMessage): Promise<AcceptedMessage>;
  /** gateway_accept_total. */
  readonly accepts: Counter;
  /** Keeps the counts of open turns fresh, until the signal aborts. */
  refreshLoad(signal: AbortSignal): Promise<void>;
  /** What the board's `worker_pool` check shows: the statements that store messages. */
  detail(): ProbeDetail;
}

/** One statement stores at most so much (delivery rules 5, 25). */
const maxRows = 256;
const maxTenants = 64;
/** One statement at a time took 30 % more accepts than two at 32 connections on two cores (five pairs). */
const statementsAtOnce = 2;
const secondStatementAtRows = 64;
const maxWaitingRows = 10_000;
const refreshMs = 500;

/** Puts the accept path together: door, tick, statement, outbox. */
export function createAcceptService(parts: {
  readonly settings: GatewaySettings;
  readonly database: Database;
  readonly messaging: Pick<Messaging, 'outbox'>;
  readonly log: Logger;
  readonly metrics: Metrics;
}): AcceptService {
  const { settings, database, messaging, log, metrics } = parts;
  const load = createAcceptLoad({
    what: 'turns',
    maxOpen: settings.tenantMaxOpenTurns,
    isOutboxFull: () => messaging.outbox.full,
    countOpen: (tenants, bound) => countOpenTurns(database, tenants, bound),
    onFailure: (error) => log.debug('accept.load_unknown', { error }),
  });
  const storeTick = createAcceptStore({
    database,
    outbox: messaging.outbox,
    route: acceptRoute,
    timeoutMs: settings.acceptTimeoutMs,
  });
  const pool = { busy: 0, completed: 0, failed: 0 };
  const tick = createTickBatcher<AcceptRow, AcceptOutcome>({
    maxItems: maxRows,
    maxGroups: maxTenants,
    groupOf: (row) => row.tenant,
    concurrency: statementsAtOnce,
    besideAt: secondStatementAtRows,
    maxWaiting: maxWaitingRows,
    async run(rows) {
      pool.busy += 1;
      try {
        const outcomes = await storeTick(rows);
        pool.completed += 1;
        return outcomes;
      } catch (error) {
        pool.failed += 1;
        throw error;
      } finally {
        pool.busy -= 1;
      }
    },
  });
  return {
    accept: createAcceptMessage({
      store: (row) => tick.add(row),
      findAnswer: (tenant, key) => findAnswer(database, tenant, acceptRoute, key),
      load,
      personas: createPersonaCache((tenant) => listPersonas(database, tenant)),
      defaultPersonaId: settings.defaultPersonaId,
    }),
    accepts: metrics.counter('gateway_accept_total', {
      help: 'Posted messages by result: accepted, replayed, or the error code in lower case.',
      labels: ['result'],
    }),
    refreshLoad: (signal) =>
      repeat(
        refreshMs,
        () => load.refresh(),
        () => undefined,
        signal,
      ),
    detail: () => ({
      status: tick.waiting >= maxWaitingRows ? 'degraded' : 'ok',
      size: statementsAtOnce,
      busy: pool.busy,
      queued: tick.waiting,
      completed_total: pool.completed,
      failed_total: pool.failed,
    }),
  };
}
