import { formatStreamId, type StreamPosition } from '@signalbox/api/stream-id';
import type { Database, Queryable } from '@signalbox/postgres/database';
import type { SessionRef } from './session-stream.ts';

/** Reads of one tenant's sessions for the pages of the API. Each runs under row level security. */

export interface SessionSummary {
  readonly session_id: string;
  readonly persona_id: string;
  readonly created_at: Date;
  readonly last_message_at: Date | null;
}

const listStatement = {
  name: 'gateway_sessions',
  text: `select s.session_id, s.persona_id, s.created_at, m.accepted_at as last_message_at
    from gateway.sessions s
    left join lateral (
      select accepted_at from gateway.messages
        where tenant = s.tenant and session_id = s.session_id order by turn_id desc limit 1) m on true
    where s.tenant = $1 and ($2::uuid is null or s.session_id < $2)
    order by s.session_id desc limit $3`,
};

/** Newest first. */
export function listSessions(
  database: Database,
  tenant: string,
  before: string | undefined,
  limit: number,
): Promise<SessionSummary[]> {
  return database.transaction(
    (tx) => tx.query<SessionSummary>(listStatement, [tenant, before ?? null, limit]),
    {
      tenant,
    },
  );
}

const sessionStatement = {
  name: 'gateway_session',
  text: `select pruned_epoch, pruned_position from gateway.sessions where tenant = $1 and session_id = $2`,
};

/** Whether the session is the tenant's. */
export async function hasSession(tx: Queryable, { tenant, sessionId }: SessionRef): Promise<boolean> {
  return (await tx.query(sessionStatement, [tenant, sessionId])).length > 0;
}

/** Whether it is the session of a delegated turn: nobody has made it, and it can be read (0039). */
async function hasOwnEvents(tx: Queryable, { tenant, sessionId }: SessionRef): Promise<boolean> {
  const [row] = await tx.query<{ own: boolean }>(
    { name: 'gateway_own_events', text: 'select gateway.has_own_events($1, $2) as own' },
    [tenant, sessionId],
  );
  return row?.own === true;
}

const pageStatement = {
  name: 'gateway_event_page',
  text: `select epoch, position, event_type, data, stored_at from gateway.session_events
    where tenant = $1 and session_id = $2 and (epoch, position) > ($3, $4)
    order by epoch, position limit $5`,
};

export interface StoredEventRow {
  readonly id: string;
  readonly event: string;
  readonly data: string;
  readonly stored_at: Date;
}

export interface EventPageResult {
  readonly events: readonly StoredEventRow[];
  /** Lowest position that can be resumed from, as pruned so far. */
  readonly pruned: StreamPosition | undefined;
}

/** Undefined when the session is not the tenant's. */
export function pageEvents(
  database: Database,
  { tenant, sessionId }: SessionRef,
  after: StreamPosition,
  limit: number,
): Promise<EventPageResult | undefined> {
  return database.transaction(
    async (tx) => {
      const [session] = await tx.query<{ pruned_epoch: number | null; pruned_position: string | null }>(
        sessionStatement,
        [tenant, sessionId],
      );
      if (session === undefined && !(await hasOwnEvents(tx, { tenant, sessionId }))) return undefined;
      const rows = await tx.query<{
        epoch: number;
        position: string;
        event_type: string;
        data: string;
        stored_at: Date;
      }>(pageStatement, [tenant, sessionId, after.epoch, after.position.toString(), limit]);
      const { pruned_epoch: epoch = null, pruned_position: position = null } = session ?? {};
      return {
        events: rows.map((row) => ({
          id: formatStreamId({ epoch: row.epoch, position: BigInt(row.position) }),
          event: row.event_type,
          data: row.data,
          stored_at: row.stored_at,
        })),
        pruned: epoch === null || position === null ? undefined : { epoch, position: BigInt(position) },
      };
    },
    { tenant },
  );
}

export interface TurnRow {
  readonly turn_id: string;
  readonly event_id: string;
  readonly body: MessageBody;
  readonly accepted_at: Date;
  readonly ended_at: Date | null;
  readonly epoch: number | null;
  readonly position: string | null;
  readonly event_type: string | null;
  readonly data: string | null;
}

export interface MessageBody {
  readonly persona_id: string;
  readonly message: string;
  readonly attachments?: readonly Record<string, unknown>[];
  readonly metadata?: Record<string, unknown>;
}

const historyStatement = {
  name: 'gateway_history',
  text: `select m.turn_id, m.event_id, m.body, m.accepted_at, m.ended_at, e.epoch, e.position, e.event_type, e.data
    from gateway.messages m
    left join gateway.session_events e
      on e.tenant = m.tenant and e.session_id = m.session_id and e.epoch = m.end_epoch and e.position = m.end_position
    where m.tenant = $1 and m.session_id = $2 and ($3::uuid is null or m.turn_id < $3)
    order by m.turn_id desc limit $4`,
};

/** Turns, newest first, each with the event that ended it. Undefined when the session is not the tenant's. */
export function readHistory(
  database: Database,
  { tenant, sessionId }: SessionRef,
  before: string | undefined,
  limit: number,
): Promise<TurnRow[] | undefined> {
  return database.transaction(
    async (tx) => {
      if (!(await hasSession(tx, { tenant, sessionId }))) return undefined;
      return tx.query<TurnRow>(historyStatement, [tenant, sessionId, before ?? null, limit]);
    },
    { tenant },
  );
}

export interface ToolRow {
  readonly name: string;
  readonly description: string;
  readonly parameters: Record<string, unknown>;
  readonly idempotent: boolean;
  readonly timeout_ms: number;
  readonly enabled: boolean;
  readonly version: number;
}

export function listTools(database: Database, tenant: string): Promise<ToolRow[]> {
  return database.transaction(
    (tx) =>
      tx.query<ToolRow>(
        {
          name: 'gateway_tools',
          text: `select name, description, parameters, idempotent, timeout_ms, enabled, version
            from gateway.tools where tenant = $1 and not removed order by name`,
        },
        [tenant],
      ),
    { tenant },
  );
}

export async function listPersonas(database: Database, tenant: string): Promise<string[]> {
  const rows = await database.transaction(
    (tx) =>
      tx.query<{ persona_id: string }>(
        { name: 'gateway_personas', text: 'select persona_id from gateway.personas where tenant = $1' },
        [tenant],
      ),
    { tenant },
  );
  return rows.map((row) => row.persona_id);
}

/** Open turns of each tenant, counted up to `bound`. */
export async function countOpenTurns(
  database: Database,
  tenants: readonly string[],
  bound: number,
): Promise<ReadonlyMap<string, number>> {
  const rows = await database.query<{ tenant: string; open_turns: number }>(
    { name: 'gateway_open_turns', text: 'select tenant, open_turns from gateway.open_turns($1, $2)' },
    [tenants, bound],
  );
  return new Map(rows.map((row) => [row.tenant, row.open_turns]));
}
