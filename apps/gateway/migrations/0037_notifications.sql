-- Up Migration

-- What people should see although they did not ask for it: a copy of ui.notifications, one row for its id, which is the
-- inbox too. `seq` is the order in which they came here: pages go by it, newest first. A cleared one keeps its row for as
-- long as its record may come again, and nobody is shown it.
create table gateway.notifications (
  tenant text not null,
  notification_id uuid not null,
  seq bigint generated always as identity,
  kind text not null,
  level text not null,
  title text not null,
  body text,
  session_id uuid,
  data json,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  stored_at timestamptz not null default clock_timestamp(),
  read_at timestamptz,
  cleared_at timestamptz,
  primary key (tenant, notification_id)
);
create index notifications_shown on gateway.notifications (tenant, seq desc) where cleared_at is null;
create index notifications_expiry on gateway.notifications (expires_at);
create index notifications_cleared on gateway.notifications (stored_at) where cleared_at is not null;
select app.protect_tenant_table('gateway.notifications', 'select, insert', 'signalbox_gateway');
-- What it was cleared of, its text, goes at once.
grant update (read_at, cleared_at, title, body, data) on gateway.notifications to signalbox_gateway;
alter table gateway.notifications set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);

-- Stores the notifications of one batch; rows of a tenant stand together. One that is there is left as it is, read or cleared;
-- one that has expired is not stored, for its row may be gone already. Answers how many are new.
create function gateway.store_notifications(p_tenants text[], p_upto int[], p_values json[]) returns int
language plpgsql as $$
declare
  v_from int := 1;
  v_step int;
  v_rows int;
  v_stored int := 0;
begin
  for v_step in 1 .. cardinality(p_tenants) loop
    perform set_config('app.tenant', p_tenants[v_step], true);
    insert into gateway.notifications (
        tenant, notification_id, kind, level, title, body, session_id, data, created_at, expires_at)
      select p_tenants[v_step], n.notification_id, n.kind, n.level, n.title, n.body, n.session_id, n.data, n.created_at,
             n.expires_at
        from unnest(p_values[v_from:p_upto[v_step]]) with ordinality v(value, ord),
             lateral json_to_record(v.value) as n(
               notification_id uuid, kind text, level text, title text, body text, session_id uuid, data json,
               created_at timestamptz, expires_at timestamptz)
        where n.expires_at > clock_timestamp()
        order by v.ord
      on conflict do nothing;
    get diagnostics v_rows = row_count;
    v_stored := v_stored + v_rows;
    v_from := p_upto[v_step] + 1;
  end loop;
  return v_stored;
end $$;
revoke all on function gateway.store_notifications from public;
grant execute on function gateway.store_notifications to signalbox_gateway;

-- The janitor: deletes at most p_limit rows that have expired, or were cleared so long ago that their record cannot come
-- again. It belongs to signalbox_queue, as all upkeep does (0033).
create policy prune on gateway.notifications to signalbox_queue using (true) with check (true);
grant select, delete on gateway.notifications to signalbox_queue;
create function gateway.prune_notifications(p_keep_cleared interval, p_limit int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_rows int;
begin
  perform pg_advisory_xact_lock(hashtextextended('gateway.prune_notifications', 0));
  delete from gateway.notifications where ctid = any (array(
    select ctid from gateway.notifications
      where expires_at < now() or (cleared_at is not null and stored_at < now() - p_keep_cleared)
      limit p_limit));
  get diagnostics v_rows = row_count;
  return v_rows;
end $$;
select app.protect_queue_functions('gateway', 'signalbox_gateway');

-- Down Migration

drop function gateway.prune_notifications;
drop function gateway.store_notifications;
drop table gateway.notifications;
