export interface KeyTableNames {
  /** The service's schema, made before. */
  readonly schema: string;
  /** The group role of the service; `signalbox_<schema>` unless given. */
  readonly role?: string;
}

const nameForm = /^[a-z][a-z_]{0,40}$/;

/**
 * The SQL of a service's table of Idempotency-Keys, for its migration: the columns that the store reads, row level security,
 * and `<schema>.forget_keys(keep, limit)`, which deletes at most `limit` keys of all tenants that are older than `keep`
 * and answers how many. gateway's own table has the same columns and was made before this.
 */
export function idempotencyKeysSql({ schema, role = `signalbox_${schema}` }: KeyTableNames): string {
  for (const name of [schema, role]) {
    if (!nameForm.test(name)) throw new Error(`${name}: not a plain SQL name`);
  }
  return `
-- Only accepted requests leave a row, in the transaction of their effect (delivery rule 24). The key is written before the
-- effect, so that others wait for it and not for what it does; the answer is known only after. event_id is the id of the
-- request that had the effect.
create table ${schema}.idempotency_keys (
  tenant text not null,
  route text not null,
  key text not null,
  body_hash bytea not null,
  event_id uuid not null,
  status smallint not null default 202,
  location text,
  answer json not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (tenant, route, key)
);
create index idempotency_keys_age on ${schema}.idempotency_keys using brin (created_at);
select app.protect_tenant_table('${schema}.idempotency_keys', 'select, insert', '${role}');
grant update (status, location, answer) on ${schema}.idempotency_keys to ${role};
-- Grows and shrinks at the rate of requests: vacuumed by a count of rows, not by a share of a big table.
alter table ${schema}.idempotency_keys
  set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);

-- Keys are forgotten for all tenants, by the one role that sees every tenant's rows.
create policy prune on ${schema}.idempotency_keys to signalbox_queue using (true) with check (true);
grant usage on schema ${schema} to signalbox_queue;
grant select, delete on ${schema}.idempotency_keys to signalbox_queue;
create function ${schema}.forget_keys(p_keep interval, p_limit int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_keys int;
begin
  delete from ${schema}.idempotency_keys where ctid = any (array(
    select ctid from ${schema}.idempotency_keys where created_at < now() - p_keep limit p_limit));
  get diagnostics v_keys = row_count;
  return v_keys;
end $$;
select app.protect_queue_functions('${schema}', '${role}');
`;
}
