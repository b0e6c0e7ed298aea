import type { QueueNames } from '../queue-migration.ts';
import { definer, inner } from './tables.ts';

/**
 * How a holder's item ends or pauses. Each takes the lane's lock (SB001 if it is no longer the holder's), changes the
 * item, and frees the lane together with looking whether there is more: one transaction, the caller's.
 * Each answers whether the lane can be claimed again at once.
 */
export function outcomeSql({ schema, items }: QueueNames): string {
  const lanes = `${schema}.lanes`;
  const work = `${schema}.${items}`;
  const holder = 'p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid';
  const hold = `PERFORM ${schema}.work_hold(p_tenant, p_key, p_owner, p_fence);`;
  const running = `i.tenant = p_tenant AND i.id = p_id AND i.key = p_key AND i.state = 'running'`;
  // Holding the lane but not this item: a caller that mixed two up, or repeats an outcome it already stored.
  const orLost = `IF NOT FOUND THEN RAISE EXCEPTION 'lease lost' USING ERRCODE = 'SB001'; END IF;`;
  return `
-- For a lane whose lock the caller took in an earlier statement, so that this one sees what was committed before.
CREATE FUNCTION ${schema}.work_free(p_tenant text, p_key text) RETURNS boolean
LANGUAGE plpgsql ${inner} AS $$
DECLARE
  v_ready timestamptz;
BEGIN
  UPDATE ${lanes} l
  SET owner = NULL, until = NULL, ready_at = (
    SELECT CASE WHEN i.state = 'parked' THEN NULL ELSE greatest(i.not_before, clock_timestamp()) END
    FROM ${work} i WHERE i.tenant = p_tenant AND i.key = p_key AND i.finished_at IS NULL ORDER BY i.seq LIMIT 1)
  WHERE l.tenant = p_tenant AND l.key = p_key RETURNING l.ready_at INTO v_ready;
  RETURN coalesce(v_ready <= clock_timestamp(), false);
END;
$$;
REVOKE ALL ON FUNCTION ${schema}.work_free(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ${schema}.work_free(text, text) TO signalbox_queue;

-- p_state: 'done' or 'failed'. p_result stays on the row, for whoever sends the message again.
CREATE FUNCTION ${schema}.work_finish(${holder}, p_state text, p_error text DEFAULT NULL, p_result jsonb DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  ${hold}
  UPDATE ${work} i SET state = p_state, finished_at = clock_timestamp(), last_error = p_error, result = p_result
  WHERE ${running};
  ${orLost}
  RETURN ${schema}.work_free(p_tenant, p_key);
END;
$$;

-- Lets go of the lane until p_pending results have come (work_resume). Call it in the transaction that writes the
-- requests to the outbox: then no result can be there first. The item keeps its place, so nothing behind it runs.
CREATE FUNCTION ${schema}.work_park(${holder}, p_pending int) RETURNS boolean
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  ${hold}
  UPDATE ${work} i SET state = CASE WHEN p_pending > 0 THEN 'parked' ELSE 'ready' END, pending = p_pending
  WHERE ${running};
  ${orLost}
  RETURN ${schema}.work_free(p_tenant, p_key);
END;
$$;

-- Again after p_delay_ms, as a new attempt. The item keeps its place in the lane.
CREATE FUNCTION ${schema}.work_retry(${holder}, p_delay_ms int, p_error text) RETURNS boolean
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  ${hold}
  UPDATE ${work} i
  SET state = 'ready', interrupted = true, retries = i.retries + 1, last_error = p_error,
      not_before = clock_timestamp() + make_interval(secs => p_delay_ms / 1000.0)
  WHERE ${running};
  ${orLost}
  RETURN ${schema}.work_free(p_tenant, p_key);
END;
$$;

-- Gives a running item to whoever claims it next, as a new attempt, without counting a retry: this process stops.
CREATE FUNCTION ${schema}.work_hand_over(${holder}) RETURNS boolean
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  ${hold}
  UPDATE ${work} i SET state = 'ready', interrupted = true WHERE ${running};
  ${orLost}
  RETURN ${schema}.work_free(p_tenant, p_key);
END;
$$;

-- Lets go of a lane that p_owner holds by mistake: p_started tells whether its item may have run (then the next claim is
-- a new attempt) or the answer to the claim never came (then the attempt was not used). Does nothing if it is not held.
CREATE FUNCTION ${schema}.work_let_go(p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_started boolean)
RETURNS boolean
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  PERFORM 1 FROM ${lanes} l
  WHERE l.tenant = p_tenant AND l.key = p_key AND l.owner = p_owner AND l.fence = p_fence FOR UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  UPDATE ${work} i SET state = 'ready', interrupted = i.interrupted OR p_started
  WHERE i.tenant = p_tenant AND i.key = p_key AND i.finished_at IS NULL AND i.state = 'running';
  RETURN ${schema}.work_free(p_tenant, p_key);
END;
$$;
`;
}
