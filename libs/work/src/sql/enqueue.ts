import type { QueueNames } from '../queue-migration.ts';
import { claimedColumns, definer } from './tables.ts';

/**
 * Intake. A row is [{tenant, id, key, format?, payload, not_before?, traceparent?}, …]; order within a lane is the order
 * of the rows.
 *
 * The lane comes first: it is locked, and taken if nobody holds it and nobody waits in it; then, in a later statement,
 * the item is entered, as running if nothing unfinished is before it. That order is what makes "release" and "is there
 * more" safe against an intake at the same moment:
 *
 *   intake wants L: waits, the release of item 1 holds L's lock
 *   release reads "nothing more", frees L with ready_at null, commits
 *   intake goes on with the new row of L: free, so it takes it; its next statement sees 1 finished → 2 runs
 * or
 *   intake locks L (held: only locked), enters 2 as ready, commits
 *   release waited for L's lock; its next statement sees 2 and frees L with ready_at              → 2 will be claimed
 * or
 *   intake's statement began before item 1 was entered; 1 was entered, ran and parked: L is free, ready_at null
 *   intake takes L; its *next* statement sees 1 parked, enters 2 as ready and frees L again       → 2 waits behind 1
 */
export function enqueueSql({ schema, items }: QueueNames): string {
  const lanes = `${schema}.lanes`;
  const work = `${schema}.${items}`;
  const leased = `clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0)`;
  return `
-- Enters the rows that are not there yet, and leases up to p_slots of the lanes that nobody held or waited in to p_owner
-- in the same transaction: the first delta then does not wait for a second round trip, and a row is written once, not
-- entered and then changed. One row for each new id; claimed: the caller starts it after the commit and not before.
--
-- The lanes are locked by this transaction from the start, so no other claim sees them before the commit:
--   commit            the item is running under p_owner; another claim finds the lane held
--   rollback          nothing was enqueued, nothing is held
--   commit, but its answer is lost, or the process dies before it starts the item
--                     the lane is p_owner's although nobody runs it: the owner's heartbeat brings back a lane it does
--                     not know and it lets go of it (work_let_go); a dead owner's lease runs out and is taken over
-- Lanes that were ready before keep their place: only lanes that nobody was waiting in are taken past the tenants' turn.
CREATE FUNCTION ${schema}.work_enqueue_and_claim(p_rows jsonb, p_owner uuid, p_slots int, p_lease_ms int, p_formats int[])
RETURNS TABLE (claimed boolean, ${claimedColumns})
LANGUAGE plpgsql ${definer} AS $$
#variable_conflict use_column
DECLARE
  v_row record;
  v_left int := p_slots;
  v_tenant text;
  v_key text;
  v_take boolean;
  v_new boolean;
BEGIN
  FOR v_row IN
    SELECT r.* FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS e(row, ord)
    CROSS JOIN LATERAL jsonb_to_record(e.row) AS r(
      tenant text, id uuid, key text, format smallint, payload jsonb, not_before timestamptz, traceparent text)
    ORDER BY r.tenant COLLATE "C", r.key COLLATE "C", e.ord
  LOOP
    -- A repeat leaves its lane alone. One that is being entered at this moment waits for the lane and is found below.
    CONTINUE WHEN EXISTS (SELECT FROM ${work} u WHERE u.tenant = v_row.tenant AND u.id = v_row.id);
    v_take := false;
    IF v_row.key IS DISTINCT FROM v_key OR v_row.tenant IS DISTINCT FROM v_tenant THEN
      v_tenant := v_row.tenant;
      v_key := v_row.key;
      IF v_left > 0 AND v_row.not_before IS NULL AND coalesce(v_row.format, 1) = ANY (p_formats) THEN
        INSERT INTO ${lanes} AS l (tenant, key, owner, fence, until)
        VALUES (v_tenant, v_key, p_owner, nextval('${schema}.lane_fence'), ${leased})
        ON CONFLICT (tenant, key) DO UPDATE SET owner = excluded.owner, fence = excluded.fence, until = excluded.until
        WHERE l.owner IS NULL AND l.ready_at IS NULL
        RETURNING l.fence INTO fence;
        v_take := FOUND;
      ELSE
        INSERT INTO ${lanes} AS l (tenant, key, ready_at) VALUES (v_tenant, v_key, clock_timestamp())
        ON CONFLICT (tenant, key) DO UPDATE SET ready_at = clock_timestamp() WHERE l.owner IS NULL AND l.ready_at IS NULL;
      END IF;
    END IF;
    INSERT INTO ${work} AS i (tenant, id, key, format, payload, not_before, traceparent, state, attempt, started_at)
    SELECT v_row.tenant, v_row.id, v_row.key, coalesce(v_row.format, 1), coalesce(v_row.payload, '{}'), v_row.not_before,
           v_row.traceparent, CASE WHEN h.runs THEN 'running' ELSE 'ready' END, h.runs::int,
           CASE WHEN h.runs THEN clock_timestamp() END
    FROM (SELECT v_take AND NOT EXISTS (
            SELECT FROM ${work} u WHERE u.tenant = v_row.tenant AND u.key = v_row.key AND u.finished_at IS NULL) AS runs) h
    ON CONFLICT (tenant, id) DO NOTHING
    RETURNING i.id, i.state = 'running', i.enqueued_at INTO id, claimed, enqueued_at;
    v_new := FOUND;
    IF v_take AND claimed IS NOT TRUE THEN
      PERFORM ${schema}.work_free(v_tenant, v_key);
    END IF;
    CONTINUE WHEN NOT v_new;
    IF claimed THEN
      v_left := v_left - 1;
      tenant := v_tenant;
      key := v_key;
      format := coalesce(v_row.format, 1);
      payload := coalesce(v_row.payload, '{}');
      attempt := 1;
      retries := 0;
      traceparent := v_row.traceparent;
    ELSE
      tenant := NULL;
      key := NULL;
      fence := NULL;
      format := NULL;
      payload := NULL;
      attempt := NULL;
      retries := NULL;
      enqueued_at := NULL;
      traceparent := NULL;
    END IF;
    RETURN NEXT;
  END LOOP;
END;
$$;

-- The ids that are new; the others were delivered before. Their lanes are made ready unless held or waiting already.
CREATE FUNCTION ${schema}.work_enqueue(p_rows jsonb) RETURNS SETOF uuid
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  RETURN QUERY SELECT e.id FROM ${schema}.work_enqueue_and_claim(p_rows, NULL, 0, 0, '{}') e;
END;
$$;

-- Results for parked items: pending − 1 each; at 0 the item is ready and so is its lane, and up to p_slots of those whose
-- lane is free are leased to p_owner in the same transaction (as work_enqueue_and_claim does), again as one change of the
-- row. Each lane is locked first, in key order, so a park, a claim or another result of the lane cannot come between.
-- One row for each result that counted: claimed, or what is left in attempt; none when the item is not parked (a late
-- or repeated result). The caller makes sure that a result counts once (its own row is unique).
CREATE FUNCTION ${schema}.work_resume_and_claim(p_tenants text[], p_keys text[], p_ids uuid[],
                                                p_owner uuid, p_slots int, p_lease_ms int, p_formats int[])
RETURNS TABLE (claimed boolean, ${claimedColumns})
LANGUAGE plpgsql ${definer} AS $$
#variable_conflict use_column
DECLARE
  v_result record;
  v_left int := p_slots;
  v_take boolean;
  v_pending int;
BEGIN
  FOR v_result IN
    SELECT n.tenant, n.key, n.id FROM unnest(p_tenants, p_keys, p_ids) AS n(tenant, key, id)
    ORDER BY n.tenant COLLATE "C", n.key COLLATE "C"
  LOOP
    SELECT l.owner IS NULL INTO v_take FROM ${lanes} l
    WHERE l.tenant = v_result.tenant AND l.key = v_result.key FOR UPDATE;
    IF NOT FOUND THEN
      INSERT INTO ${lanes} AS l (tenant, key) VALUES (v_result.tenant, v_result.key)
      ON CONFLICT (tenant, key) DO UPDATE SET ready_at = l.ready_at WHERE false;
      v_take := false;
    END IF;
    v_take := v_take AND v_left > 0;
    -- Something before it can be there only if it was given a second chance (work_requeue).
    UPDATE ${work} i
    SET pending = i.pending - 1,
        state = CASE WHEN i.pending > 1 THEN i.state
                     WHEN v_take AND i.format = ANY (p_formats) AND NOT EXISTS (
                       SELECT FROM ${work} u WHERE u.tenant = v_result.tenant AND u.key = v_result.key
                         AND u.finished_at IS NULL AND u.seq < i.seq) THEN 'running'
                     ELSE 'ready' END
    WHERE i.tenant = v_result.tenant AND i.id = v_result.id AND i.key = v_result.key AND i.state = 'parked'
    RETURNING i.state = 'running', i.tenant, i.key, i.id, i.format, i.payload, i.pending, i.attempt, i.retries,
              i.enqueued_at, i.traceparent
    INTO claimed, tenant, key, id, format, payload, v_pending, attempt, retries, enqueued_at, traceparent;
    CONTINUE WHEN NOT FOUND;
    IF claimed THEN
      v_left := v_left - 1;
      UPDATE ${lanes} l
      SET owner = p_owner, fence = nextval('${schema}.lane_fence'), until = ${leased}, ready_at = NULL
      WHERE l.tenant = v_result.tenant AND l.key = v_result.key
      RETURNING l.fence INTO fence;
    ELSE
      fence := NULL;
      payload := NULL;
      attempt := v_pending;
      IF v_pending <= 0 THEN
        UPDATE ${lanes} l SET ready_at = clock_timestamp()
        WHERE l.tenant = v_result.tenant AND l.key = v_result.key AND l.owner IS NULL;
      END IF;
    END IF;
    RETURN NEXT;
  END LOOP;
END;
$$;

-- One result; answers what is left, null when it did not count.
CREATE FUNCTION ${schema}.work_resume(p_tenant text, p_key text, p_id uuid) RETURNS int
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  RETURN (SELECT r.attempt FROM ${schema}.work_resume_and_claim(
            ARRAY[p_tenant], ARRAY[p_key], ARRAY[p_id], NULL, 0, 0, '{}') r);
END;
$$;
`;
}
