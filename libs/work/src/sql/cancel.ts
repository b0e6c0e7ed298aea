import type { QueueNames } from '../queue-migration.ts';
import { claimedColumns, definer } from './tables.ts';

/**
 * Cancelling, and the count of tries that ended without a word. Functions that a process of the release before calls
 * keep their columns (a prepared statement whose columns change fails until its connection is made anew); what this
 * release needs more of is asked by functions of other names.
 *
 * Whoever cancels takes the lane's lock, so it comes before or after every step of the item, never between:
 *
 *   cancel, then claim   the item waits and never ran: it ends here. It ran before: the claim brings `cancel` along
 *   claim, then cancel   it runs: flagged; the holder's next heartbeat brings the flag
 *   cancel, then park    the park leaves it ready instead: no result is waited for, whoever claims it next ends it
 *   park, then cancel    it is made ready; results that come later find nothing parked and do not count
 *   cancel, then finish  the end that the holder stored stands; the flag had no effect
 *   finish, then cancel  finished: nothing to cancel
 *   cancel, then the holder dies or stalls: the next holder's claim brings `cancel` along
 */
export function cancelSql({ schema, items }: QueueNames): string {
  const lanes = `${schema}.lanes`;
  const work = `${schema}.${items}`;
  return `
-- Who asked for the item's end and why, as the caller gave it; null: nobody. Not null: it never waits for results again.
-- lost: tries that ended without an outcome, because the process died with them or the run said nothing. A hand-over
-- or a retry is an outcome.
ALTER TABLE ${work} ADD COLUMN cancel jsonb, ADD COLUMN lost int NOT NULL DEFAULT 0;
-- Nearly always empty: every heartbeat looks here.
CREATE INDEX ${items}_cancelled ON ${work} (tenant, key) WHERE cancel IS NOT NULL AND finished_at IS NULL;

-- Locks those of the lanes that exist, in the order in which every function locks them. For a transaction that cancels in
-- several lanes, or cancels and enqueues: without it two such transactions could wait for each other.
CREATE FUNCTION ${schema}.work_lock(p_tenants text[], p_keys text[]) RETURNS void
LANGUAGE plpgsql ${definer} AS $$
DECLARE
  v_lane record;
BEGIN
  FOR v_lane IN
    SELECT DISTINCT n.tenant COLLATE "C" AS tenant, n.key COLLATE "C" AS key
    FROM unnest(p_tenants, p_keys) AS n(tenant, key) ORDER BY 1, 2
  LOOP
    PERFORM 1 FROM ${lanes} l WHERE l.tenant = v_lane.tenant AND l.key = v_lane.key FOR UPDATE;
  END LOOP;
END;
$$;

-- Ends the unfinished items of a lane, or those of p_ids. One row for each that this changed, in the lane's order:
--   waiting  it never ran and has ended here, state 'cancelled': the caller says so where its client looks
--   running  it is flagged; its holder learns of it within a heartbeat, or the one who takes it over with the claim
--   idle     it was parked or waited for a retry: flagged and made ready, so that it is claimed now and ended by its holder
-- Finished and already cancelled items are left alone, so a repeat changes nothing.
CREATE FUNCTION ${schema}.work_cancel(p_tenant text, p_key text, p_ids uuid[], p_cancel jsonb)
RETURNS TABLE (id uuid, was text)
LANGUAGE plpgsql ${definer} AS $$
#variable_conflict use_variable
DECLARE
  v_free boolean;
  v_item record;
  v_head record;
BEGIN
  SELECT l.owner IS NULL INTO v_free FROM ${lanes} l WHERE l.tenant = p_tenant AND l.key = p_key FOR UPDATE;
  IF NOT FOUND THEN
    -- No lane, no item, unless somebody's hand was there (work_sweep).
    IF NOT EXISTS (SELECT FROM ${work} i WHERE i.tenant = p_tenant AND i.key = p_key AND i.finished_at IS NULL) THEN
      RETURN;
    END IF;
    INSERT INTO ${lanes} AS l (tenant, key) VALUES (p_tenant, p_key)
    ON CONFLICT (tenant, key) DO UPDATE SET ready_at = l.ready_at WHERE false;
    SELECT l.owner IS NULL INTO v_free FROM ${lanes} l WHERE l.tenant = p_tenant AND l.key = p_key FOR UPDATE;
  END IF;
  FOR v_item IN
    SELECT i.id, i.state, i.attempt FROM ${work} i
    WHERE i.tenant = p_tenant AND i.key = p_key AND i.finished_at IS NULL AND i.cancel IS NULL
      AND (p_ids IS NULL OR i.id = ANY (p_ids))
    ORDER BY i.seq
  LOOP
    id := v_item.id;
    IF v_item.state = 'ready' AND v_item.attempt = 0 THEN
      was := 'waiting';
      UPDATE ${work} i SET state = 'cancelled', finished_at = clock_timestamp(), cancel = coalesce(p_cancel, '{}')
      WHERE i.tenant = p_tenant AND i.id = v_item.id;
    ELSIF v_item.state = 'running' THEN
      was := 'running';
      UPDATE ${work} i SET cancel = coalesce(p_cancel, '{}') WHERE i.tenant = p_tenant AND i.id = v_item.id;
    ELSE
      was := 'idle';
      UPDATE ${work} i SET state = 'ready', pending = 0, not_before = NULL, cancel = coalesce(p_cancel, '{}')
      WHERE i.tenant = p_tenant AND i.id = v_item.id;
    END IF;
    RETURN NEXT;
  END LOOP;
  IF was IS NULL OR NOT v_free THEN
    RETURN;
  END IF;
  -- A free lane is ready when its lowest item is; one that was ready already keeps its place.
  SELECT i.state, i.not_before INTO v_head FROM ${work} i
  WHERE i.tenant = p_tenant AND i.key = p_key AND i.finished_at IS NULL ORDER BY i.seq LIMIT 1;
  UPDATE ${lanes} l
  SET ready_at = CASE WHEN v_head.state IS NULL OR v_head.state = 'parked' THEN NULL
                      ELSE least(l.ready_at, greatest(v_head.not_before, clock_timestamp())) END
  WHERE l.tenant = p_tenant AND l.key = p_key;
END;
$$;

-- work_claim, with what this release asks of an item besides. Read after the claim has locked the lanes: whoever cancels
-- did so before, and is seen, or waits for the claim's commit, and finds the item running.
CREATE FUNCTION ${schema}.work_claim_next(p_owner uuid, p_limit int, p_lease_ms int, p_take_expired boolean,
                                          p_formats int[], p_after text DEFAULT '')
RETURNS TABLE (${claimedColumns}, lost int, cancel jsonb)
LANGUAGE plpgsql ${definer} AS $$
#variable_conflict use_column
DECLARE
  v_claim record;
BEGIN
  FOR v_claim IN
    SELECT c.* FROM ${schema}.work_claim(p_owner, p_limit, p_lease_ms, p_take_expired, p_formats, p_after) c
  LOOP
    tenant := v_claim.tenant;
    key := v_claim.key;
    fence := v_claim.fence;
    id := v_claim.id;
    format := v_claim.format;
    payload := v_claim.payload;
    attempt := v_claim.attempt;
    retries := v_claim.retries;
    enqueued_at := v_claim.enqueued_at;
    traceparent := v_claim.traceparent;
    SELECT i.lost, i.cancel INTO lost, cancel FROM ${work} i WHERE i.tenant = v_claim.tenant AND i.id = v_claim.id;
    RETURN NEXT;
  END LOOP;
END;
$$;

-- work_heartbeat, and the cancels of what runs in the lanes it answers with. \`cancelled\` names the item: the lane may
-- have gone on to its next one between the two looks.
CREATE FUNCTION ${schema}.work_beat(p_owner uuid, p_lease_ms int)
RETURNS TABLE (tenant text, key text, fence bigint, renewed boolean, cancelled uuid, cancel jsonb)
LANGUAGE sql ${definer} AS $$
  SELECT h.tenant, h.key, h.fence, h.renewed, i.id, i.cancel
  FROM ${schema}.work_heartbeat(p_owner, p_lease_ms) h
  LEFT JOIN ${work} i ON i.tenant = h.tenant AND i.key = h.key AND i.cancel IS NOT NULL AND i.finished_at IS NULL
    AND i.state = 'running';
$$;
`;
}

/** Takes away again what `cancelSql` made; the functions it replaced are made anew from the others' SQL. */
export function cancelDownSql({ schema, items }: QueueNames): string {
  return `
DROP FUNCTION ${schema}.work_lock, ${schema}.work_cancel, ${schema}.work_claim_next, ${schema}.work_beat;
DROP INDEX ${schema}.${items}_cancelled;
ALTER TABLE ${schema}.${items} DROP COLUMN cancel, DROP COLUMN lost;
`;
}
