import { isId } from '@signalbox/contracts/ids';
import { isTenant } from '@signalbox/contracts/keys';
import { asFault } from '@signalbox/faults/fault';
import type { UpkeepOutcome, UpkeepPiece, UpkeepTasks } from '@signalbox/messaging/upkeep';
import type { Database } from '@signalbox/postgres/database';
import type { Redis } from '@signalbox/redis/redis';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { SessionRef } from './session-stream.ts';
import type { GatewaySettings } from './settings.ts';
import type { StreamKeys } from './stream-keys.ts';

export interface UpkeepTaskOptions {
  readonly settings: Pick<
    GatewaySettings,
    'idempotencyKeepHours' | 'sessionEventsKeepDays' | 'sessionExpireDays'
  >;
  readonly database: Pick<Database, 'query'>;
  readonly redis: Pick<Redis, 'run'>;
  readonly keys: StreamKeys;
  readonly log: Logger;
  /** How long a session that is to be forgotten reads as unknown before its rows go. Longer than any statement takes. */
  readonly settleSeconds?: number;
}

/** Retention of ui.notifications, and a day (delivery rule 11): a cleared one's record cannot come again after this. */
const keepClearedDays = 8;
const defaultSettleSeconds = 60;

/**
 * What is past its time in the gateway's tables, for all tenants, a bounded piece at a call. job-worker asks for each by
 * its name and goes on while there is more; two replicas at it take turns.
 *
 * - `idempotency_keys`: answers older than IDEMPOTENCY_KEEP_HOURS.
 * - `session_events`: events older than SESSION_EVENTS_KEEP_DAYS; resuming below the newest of them is 410.
 * - `sessions`: sessions that nobody has used for SESSION_EXPIRE_DAYS, with messages, events and their stream in Redis.
 * - `notifications`: the expired, and the cleared whose record cannot come again.
 */
export function upkeepTasks(options: UpkeepTaskOptions): UpkeepTasks {
  const { settings, database, redis, keys, log, settleSeconds = defaultSettleSeconds } = options;

  async function rowsOf(statement: string, values: readonly unknown[]): Promise<number> {
    const [row] = await database.query<{ rows: number }>(`select ${statement} as rows`, values);
    return row?.rows ?? 0;
  }

  const piece = async (limit: number, rows: Promise<number>): Promise<UpkeepOutcome> => {
    const done = await rows;
    return { done, more: done >= limit };
  };

  /** A stream of a session that nobody has used for a day has expired by itself: no failure here is waited for. */
  async function dropStreams(sessions: readonly SessionRef[]): Promise<void> {
    try {
      for (const { tenant, sessionId } of sessions)
        await redis.run((client) =>
          client.unlink(keys.entries(tenant, sessionId), keys.state(tenant, sessionId)),
        );
    } catch (error) {
      if (!asFault(error).retryable) throw error;
      log.debug('sessions.streams_left', { error, sessions: sessions.length });
    }
  }

  /** Rows of sessions that were taken out of sight earlier. */
  async function forget(limit: number) {
    const rows = await database.query<ForgottenRow>(
      'select tenant, session_id, outcome, deleted from gateway.forget_sessions(make_interval(secs => $1), $2)',
      [settleSeconds, limit],
    );
    const of = (outcome: ForgottenRow['outcome']) => rows.filter((row) => row.outcome === outcome);
    await dropStreams(of('forgotten').map(({ tenant, session_id: sessionId }) => ({ tenant, sessionId })));
    return {
      forgotten: of('forgotten').length,
      back: of('back').length,
      begun: of('begun').length > 0,
      rows: rows.reduce((sum, { deleted }) => sum + deleted, 0),
    };
  }

  async function sessions({ limit, resume }: UpkeepPiece): Promise<UpkeepOutcome> {
    const { sessionExpireDays: days } = settings;
    const before = await forget(limit);
    const told = { forgotten: before.forgotten, back: before.back, rows: before.rows };
    const from = placeIn(resume);
    // One thing a piece: what is behind this in the list comes with the next.
    if (before.begun || before.forgotten + before.back >= limit)
      return {
        done: before.forgotten,
        more: true,
        ...(resume === undefined ? {} : { resume }),
        detail: told,
      };
    if (days === 0) return { done: before.forgotten, more: false, detail: told };
    const [row] = await database.query<RetiredRow>(
      'select looked, moved, last_tenant, last_session_id from gateway.retire_sessions(make_interval(days => $1), $2, $3, $4)',
      [days, from.tenant, from.sessionId, limit],
    );
    const { looked = 0, moved = 0, last_tenant: tenant, last_session_id: sessionId } = row ?? {};
    const more = looked >= limit;
    return {
      done: before.forgotten,
      more,
      ...(more && tenant != null && sessionId != null ? { resume: { tenant, session_id: sessionId } } : {}),
      detail: { ...told, looked_at: looked, taken_out_of_sight: moved },
    };
  }

  return {
    idempotency_keys: ({ limit }) =>
      piece(
        limit,
        rowsOf('gateway.prune_idempotency_keys(make_interval(hours => $1), $2)', [
          settings.idempotencyKeepHours,
          limit,
        ]),
      ),
    session_events: ({ limit }) =>
      piece(
        limit,
        rowsOf('gateway.prune_session_events(make_interval(days => $1), $2)', [
          settings.sessionEventsKeepDays,
          limit,
        ]),
      ),
    sessions,
    notifications: ({ limit }) =>
      piece(
        limit,
        rowsOf('gateway.prune_notifications(make_interval(days => $1), $2)', [keepClearedDays, limit]),
      ),
  };
}

interface ForgottenRow {
  readonly tenant: string;
  readonly session_id: string;
  /** `begun`: rows of it are left. `back`: it was used after all. */
  readonly outcome: 'forgotten' | 'back' | 'begun';
  readonly deleted: number;
}

interface RetiredRow {
  readonly looked: number;
  readonly moved: number;
  readonly last_tenant: string | null;
  readonly last_session_id: string | null;
}

/** Before every session, where it does not say: a `resume` of another release begins anew. */
function placeIn(resume: UpkeepPiece['resume']): SessionRef {
  const { tenant, session_id: sessionId } = resume ?? {};
  return isTenant(tenant) && isId(sessionId)
    ? { tenant, sessionId }
    : { tenant: '', sessionId: '00000000-0000-0000-0000-000000000000' };
}
