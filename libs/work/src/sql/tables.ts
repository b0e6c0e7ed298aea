import type { QueueNames } from '../queue-migration.ts';

/**
 * A lane is one key of one tenant (a session). `owner`, `fence`, `until`: its lease. `ready_at`: from when it may be
 * claimed; null while it is held, has nothing to do, or waits for results.
 *
 * No CHECKs: the server reads their text anew in every statement that writes, which was a tenth of an intake's time, and
 * only the functions here write. What they keep: owner and until are null together; ready_at is null while there is an
 * owner; finished_at is set where the state is done or failed, and nowhere else.
 *
 * What is indexed is chosen so that heartbeats (`until`) and changes of an item's state stay updates in place: no index
 * mentions them. `finished_at`, set once, parts the unfinished rows from the rest.
 */
export function tablesSql({ schema, items }: QueueNames): string {
  return `
CREATE SCHEMA IF NOT EXISTS ${schema};

CREATE SEQUENCE ${schema}.lane_fence;
GRANT USAGE ON SEQUENCE ${schema}.lane_fence TO signalbox_queue;

CREATE TABLE ${schema}.lanes (
  tenant   text COLLATE "C" NOT NULL,
  key      text COLLATE "C" NOT NULL,
  owner    uuid,
  -- Rises with every claim and is never given out twice, so that the row may be deleted and made again.
  fence    bigint NOT NULL DEFAULT 0,
  until    timestamptz,
  ready_at timestamptz,
  PRIMARY KEY (tenant, key)
);
CREATE INDEX lanes_ready ON ${schema}.lanes (tenant, ready_at) WHERE owner IS NULL AND ready_at IS NOT NULL;
CREATE INDEX lanes_owned ON ${schema}.lanes (owner) WHERE owner IS NOT NULL;

CREATE TABLE ${schema}.${items} (
  tenant      text COLLATE "C" NOT NULL,
  -- The message's id: this row is the inbox of its message.
  id          uuid NOT NULL,
  key         text COLLATE "C" NOT NULL,
  seq         bigint GENERATED ALWAYS AS IDENTITY,
  state       text NOT NULL DEFAULT 'ready',  -- running, parked, done, failed
  format      smallint NOT NULL,
  payload     jsonb NOT NULL,
  -- Tries of the item: 1 at the first claim, one more after a takeover, a retry or a hand-over; not after parking.
  attempt     int NOT NULL DEFAULT 0,
  -- The next claim is a new try.
  interrupted boolean NOT NULL DEFAULT false,
  retries     int NOT NULL DEFAULT 0,
  -- Results a parked item still waits for.
  pending     int NOT NULL DEFAULT 0,
  not_before  timestamptz,
  enqueued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  started_at  timestamptz,
  finished_at timestamptz,
  last_error  text,
  -- What the holder left with the end: of a repeated message it is the answer.
  result      jsonb,
  traceparent text,
  PRIMARY KEY (tenant, id)
);
CREATE INDEX ${items}_unfinished ON ${schema}.${items} (tenant, key, seq) WHERE finished_at IS NULL;
CREATE INDEX ${items}_finished ON ${schema}.${items} (finished_at) WHERE finished_at IS NOT NULL;

SELECT app.protect_queue_table('${schema}.lanes');
SELECT app.protect_queue_table('${schema}.${items}');
`;
}

/**
 * Every function of a queue: definer's rights, pinned path, plans made once and kept (planning a claim again cost more
 * than running it). A kept plan must not depend on the statistics of the moment, and those of a table that is empty most
 * of the time are wrong when it matters: so rows are found by key, one by one, never by a scan of a table or an index to
 * join with. Claiming 64 of 20 000 lanes took 15 ms before and takes 6.
 */
export const definer = `SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
  SET enable_hashjoin = off SET enable_mergejoin = off`;

/** The same for functions that only those call: they run with the caller's rights, path and plan settings. */
export const inner = 'SECURITY INVOKER';

/** The columns a claim answers with, in the order of the functions' RETURNS TABLE. */
export const claimedColumns = `tenant text, key text, fence bigint, id uuid, format smallint, payload jsonb,
  attempt int, retries int, enqueued_at timestamptz, traceparent text`;
