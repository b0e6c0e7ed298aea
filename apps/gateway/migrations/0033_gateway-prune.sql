-- Up Migration

-- Forgets what is past its time, for all tenants, in batches. Like the queue functions it belongs to signalbox_queue, the
-- one role that sees every tenant's rows; the service's role can call it and delete nothing else.
create policy prune on gateway.idempotency_keys to signalbox_queue using (true) with check (true);
create policy prune on gateway.session_events to signalbox_queue using (true) with check (true);
create policy prune on gateway.sessions to signalbox_queue using (true) with check (true);
grant usage on schema gateway to signalbox_queue;
grant select, delete on gateway.idempotency_keys, gateway.session_events to signalbox_queue;
grant select, update on gateway.sessions to signalbox_queue;

-- Deletes at most p_limit rows of each kind. A session remembers the highest position it lost: resuming below is 410.
-- One caller at a time: the others answer 0. Answers how many rows went.
create function gateway.prune(p_keep_keys interval, p_keep_events interval, p_limit int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_keys int;
  v_events int;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('gateway.prune', 0)) then
    return 0;
  end if;
  delete from gateway.idempotency_keys where ctid = any (array(
    select ctid from gateway.idempotency_keys where created_at < now() - p_keep_keys limit p_limit));
  get diagnostics v_keys = row_count;

  with gone as (
    delete from gateway.session_events where ctid = any (array(
      select ctid from gateway.session_events where stored_at < now() - p_keep_events limit p_limit))
    returning tenant, session_id, epoch, position
  ), highest as (
    select distinct on (tenant, session_id) tenant, session_id, epoch, position
      from gone order by tenant, session_id, epoch desc, position desc
  ), marked as (
    update gateway.sessions s set pruned_epoch = h.epoch, pruned_position = h.position
      from highest h
      where s.tenant = h.tenant and s.session_id = h.session_id
        and (s.pruned_epoch is null or (h.epoch, h.position) > (s.pruned_epoch, s.pruned_position))
  )
  select count(*)::int into v_events from gone;
  return v_keys + v_events;
end $$;

select app.protect_queue_functions('gateway', 'signalbox_gateway');

-- Down Migration

drop function gateway.prune;
drop policy prune on gateway.idempotency_keys;
drop policy prune on gateway.session_events;
drop policy prune on gateway.sessions;
