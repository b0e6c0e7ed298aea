import type { StreamPosition } from '@signalbox/api/stream-id';
import { groupByTenant } from '@signalbox/api/tenant-rows';
import { isTerminalEvent } from '@signalbox/contracts/conversation-outbound';
import { fault } from '@signalbox/faults/fault';
import type { Database } from '@signalbox/postgres/database';
import type { SessionRef } from './session-stream.ts';
import { entryOf, type StreamEntry, type StreamEvent } from './stream-event.ts';

/** What the database has made of an event; gateway.store_events tells each. */
export type StoreOutcome = 'stored' | 'known' | 'repeat' | 'stale' | 'clash' | 'failed';

export interface StoredEvents {
  readonly outcome: StoreOutcome;
  readonly sqlState: string | undefined;
}

const storeStatement = {
  name: 'gateway_store_events',
  text: 'select ord, outcome, detail from gateway.store_events($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)',
};

/** Stores events in one statement, each answered at its place. Events of one call share an epoch. */
export async function storeEvents(
  database: Database,
  events: readonly StreamEvent[],
): Promise<StoredEvents[]> {
  const { tenants, upto, rows, origin } = groupByTenant(events);
  const epoch = events[0]?.at.epoch ?? 0;
  const results = await database.query<{ ord: number; outcome: StoreOutcome; detail: string | null }>(
    storeStatement,
    [
      tenants,
      upto,
      epoch,
      rows.map((event) => event.sessionId),
      rows.map((event) => event.at.position.toString()),
      rows.map((event) => event.eventId),
      rows.map((event) => event.turnId),
      rows.map((event) => event.attempt),
      rows.map((event) => event.type),
      rows.map((event) => isTerminalEvent(event.type)),
      rows.map((event) => event.body),
    ],
  );
  const answered = new Array<StoredEvents | undefined>(events.length);
  for (const { ord, outcome, detail } of results) {
    const place = origin[ord - 1];
    if (place !== undefined) answered[place] = { outcome, sqlState: detail ?? undefined };
  }
  return answered.map((each) => {
    if (each === undefined)
      throw fault('INTERNAL_ERROR', 'the event statement left a row without an outcome');
    return each;
  });
}

const eventsStatement = {
  name: 'gateway_events_after',
  text: `select epoch, position, event_type, data from gateway.session_events
    where tenant = $1 and session_id = $2 and (epoch, position) > ($3, $4) and (epoch, position) <= ($5, $6)
    order by epoch, position limit $7`,
};

/** Stored events of a session in (after, upTo], lowest first. Deltas are not among them. */
export async function eventsAfter(
  database: Database,
  { tenant, sessionId }: SessionRef,
  after: StreamPosition,
  upTo: StreamPosition,
  limit: number,
): Promise<StreamEntry[]> {
  const rows = await database.transaction(
    (tx) =>
      tx.query<{ epoch: number; position: string; event_type: string; data: string }>(eventsStatement, [
        tenant,
        sessionId,
        after.epoch,
        after.position.toString(),
        upTo.epoch,
        upTo.position.toString(),
        limit,
      ]),
    { tenant },
  );
  return rows.map((row) =>
    entryOf({ epoch: row.epoch, position: BigInt(row.position) }, row.event_type, row.data),
  );
}

/** Where a session stands, for a stream that opens. */
export interface SessionPlace {
  /** After this everything of the oldest open turn comes. */
  readonly start: StreamPosition | undefined;
  /** The highest position that is no longer kept. */
  readonly pruned: StreamPosition | undefined;
}

export interface PlaceRequest extends SessionRef {
  readonly wantStart: boolean;
}

const openStatement = {
  name: 'gateway_open_streams',
  text: 'select * from gateway.open_streams($1,$2,$3,$4)',
};

interface PlaceRow {
  ord: number;
  start_epoch: number | null;
  start_position: string | null;
  pruned_epoch: number | null;
  pruned_position: string | null;
}

/** Looks up many sessions in one statement; `missing` for one that is not the tenant's. */
export async function findPlaces(
  database: Database,
  requests: readonly PlaceRequest[],
): Promise<(SessionPlace | 'missing')[]> {
  const { tenants, upto, rows, origin } = groupByTenant(requests);
  const found = await database.query<PlaceRow>(openStatement, [
    tenants,
    upto,
    rows.map((each) => each.sessionId),
    rows.map((each) => each.wantStart),
  ]);
  const places = new Array<SessionPlace | 'missing'>(requests.length).fill('missing');
  for (const row of found) {
    const place = origin[row.ord - 1];
    if (place === undefined) continue;
    places[place] = {
      start: position(row.start_epoch, row.start_position),
      pruned: position(row.pruned_epoch, row.pruned_position),
    };
  }
  return places;
}

function position(epoch: number | null, text: string | null): StreamPosition | undefined {
  return epoch === null || text === null ? undefined : { epoch, position: BigInt(text) };
}
