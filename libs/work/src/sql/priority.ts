import type { QueueNames } from '../queue-migration.ts';
import { claimFunctionSql } from './claim.ts';
import { definer } from './tables.ts';

/**
 * Lanes with a priority: among the free lanes of one tenant the most urgent is claimed first, and of equally urgent ones
 * the one that waits longest. Tenants are served in turn all the same: who calls everything urgent gains nothing.
 *
 * Sorting is off, so that the claim reads the lanes in the order of their index: the plan is made once, for a table that
 * is empty most of the time, and would sort all that wait for each claim.
 */
export function prioritySql({ schema, items }: QueueNames): string {
  const lanes = `${schema}.lanes`;
  const claim = claimFunctionSql(
    { schema, items },
    `${definer} SET enable_sort = off`,
    'l.priority DESC, l.ready_at',
  );
  return `
-- 0 to 9, 9 is the most urgent.
ALTER TABLE ${lanes} ADD COLUMN priority smallint NOT NULL DEFAULT 5;
CREATE INDEX lanes_urgent ON ${lanes} (tenant, priority DESC, ready_at) WHERE owner IS NULL AND ready_at IS NOT NULL;
${claim.replace('CREATE FUNCTION', 'CREATE OR REPLACE FUNCTION')}
-- For lanes that the caller's transaction has entered or locked.
CREATE FUNCTION ${schema}.work_prioritize(p_tenants text[], p_keys text[], p_priorities int[]) RETURNS void
LANGUAGE plpgsql ${definer} AS $$
DECLARE
  v_lane record;
BEGIN
  FOR v_lane IN
    SELECT n.* FROM unnest(p_tenants, p_keys, p_priorities) AS n(tenant, key, priority)
    ORDER BY n.tenant COLLATE "C", n.key COLLATE "C"
  LOOP
    UPDATE ${lanes} l SET priority = v_lane.priority
    WHERE l.tenant = v_lane.tenant AND l.key = v_lane.key AND l.priority <> v_lane.priority;
  END LOOP;
END;
$$;
`;
}

export function priorityDownSql({ schema, items }: QueueNames): string {
  const claim = claimFunctionSql({ schema, items }, definer, 'l.ready_at');
  return `
DROP FUNCTION ${schema}.work_prioritize;
${claim.replace('CREATE FUNCTION', 'CREATE OR REPLACE FUNCTION')}
DROP INDEX ${schema}.lanes_urgent;
ALTER TABLE ${schema}.lanes DROP COLUMN priority;
`;
}
