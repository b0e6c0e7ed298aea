-- Up Migration

-- Upkeep in bounded pieces, each asked for by job-worker and done by any replica. gateway.prune of 0033, which each replica
-- called by a timer of its own, stays for replicas of the release before.

-- Deletes at most p_limit idempotency keys past their time.
create function gateway.prune_idempotency_keys(p_keep interval, p_limit int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_rows int;
begin
  perform pg_advisory_xact_lock(hashtextextended('gateway.prune_idempotency_keys', 0));
  delete from gateway.idempotency_keys where ctid = any (array(
    select ctid from gateway.idempotency_keys where created_at < now() - p_keep limit p_limit));
  get diagnostics v_rows = row_count;
  return v_rows;
end $$;

-- Deletes at most p_limit events past their time. A session remembers the highest position it lost: resuming below is 410.
-- It takes the lock of gateway.prune, which changes the same rows of gateway.sessions.
create function gateway.prune_session_events(p_keep interval, p_limit int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_rows int;
begin
  perform pg_advisory_xact_lock(hashtextextended('gateway.prune', 0));
  with gone as (
    delete from gateway.session_events where ctid = any (array(
      select ctid from gateway.session_events where stored_at < now() - p_keep limit p_limit))
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
  select count(*)::int into v_rows from gone;
  return v_rows;
end $$;

-- Sessions that nobody has used for long are forgotten in two steps, for gateway.accept reads the row of a session
-- without a lock:
--   accept has read the session → its rows are deleted → accept stores a message of it → a turn of no session runs
-- 1. The row moves here: from then on the session reads like one that never was, everywhere.
-- 2. A minute later, when no statement is left that began before the move, its messages and events are deleted, and then
--    the row here. If a message was on its way after all, the row moves back, and nothing was lost.
create table gateway.expiring_sessions (
  tenant text not null,
  session_id uuid not null,
  persona_id text not null,
  created_at timestamptz not null,
  pruned_epoch int,
  pruned_position bigint,
  -- Used last before this; when it was moved.
  idle_before timestamptz not null,
  moved_at timestamptz not null default clock_timestamp(),
  primary key (tenant, session_id)
);
select app.protect_tenant_table('gateway.expiring_sessions', 'select', 'signalbox_gateway');
create policy prune on gateway.expiring_sessions to signalbox_queue using (true) with check (true);
create policy prune on gateway.messages to signalbox_queue using (true) with check (true);
grant select, insert, delete on gateway.expiring_sessions to signalbox_queue;
grant select, delete on gateway.messages to signalbox_queue;
grant insert, delete on gateway.sessions to signalbox_queue;

-- Step 1 for at most p_limit sessions behind (p_tenant, p_session_id), in key order. Never one with an open turn.
-- Answers how many were looked at, how many were moved, and the last one looked at.
create function gateway.retire_sessions(p_idle interval, p_tenant text, p_session_id uuid, p_limit int)
returns table (looked int, moved int, last_tenant text, last_session_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('gateway.prune', 0));
  return query
    with page as materialized (
      select s.tenant, s.session_id, s.created_at from gateway.sessions s
        where (s.tenant, s.session_id) > (p_tenant, p_session_id)
        order by s.tenant, s.session_id limit p_limit
    ), idle as (
      select p.tenant, p.session_id from page p
        left join lateral (
          select m.accepted_at, m.ended_at from gateway.messages m
            where m.tenant = p.tenant and m.session_id = p.session_id order by m.turn_id desc limit 1) n on true
        where p.created_at < now() - p_idle
          and coalesce(greatest(n.accepted_at, n.ended_at), p.created_at) < now() - p_idle
          and not exists (
            select from gateway.messages o
              where o.tenant = p.tenant and o.session_id = p.session_id and o.ended_at is null)
    ), gone as (
      delete from gateway.sessions s using idle i
        where s.tenant = i.tenant and s.session_id = i.session_id
        returning s.tenant, s.session_id, s.persona_id, s.created_at, s.pruned_epoch, s.pruned_position
    ), kept as (
      insert into gateway.expiring_sessions as e (
          tenant, session_id, persona_id, created_at, pruned_epoch, pruned_position, idle_before)
        select g.*, now() - p_idle from gone g
        returning e.tenant
    )
    select (select count(*)::int from page), (select count(*)::int from kept), l.tenant, l.session_id
      from (select 1) one
      left join (select p.tenant, p.session_id from page p order by p.tenant desc, p.session_id desc limit 1) l on true;
end $$;

-- Step 2 for sessions that were moved longer than p_settle ago: at most p_limit rows are deleted, oldest moved first.
-- Answers each session that is done with: `forgotten`, or `back` because it was used. `rows`: what was deleted for it now.
create function gateway.forget_sessions(p_settle interval, p_limit int)
returns table (tenant text, session_id uuid, outcome text, deleted int)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_left int := p_limit;
  v_rows int;
  v_deleted int;
  v_session record;
begin
  perform pg_advisory_xact_lock(hashtextextended('gateway.prune', 0));
  for v_session in
    select e.* from gateway.expiring_sessions e where e.moved_at < clock_timestamp() - p_settle
      order by e.moved_at, e.tenant, e.session_id limit p_limit
  loop
    exit when v_left <= 0;
    v_deleted := 0;
    if exists (select from gateway.messages m
                 where m.tenant = v_session.tenant and m.session_id = v_session.session_id
                   and (m.ended_at is null or m.accepted_at >= v_session.idle_before)) then
      insert into gateway.sessions (tenant, session_id, persona_id, created_at, pruned_epoch, pruned_position)
        values (v_session.tenant, v_session.session_id, v_session.persona_id, v_session.created_at,
                v_session.pruned_epoch, v_session.pruned_position);
      delete from gateway.expiring_sessions e
        where e.tenant = v_session.tenant and e.session_id = v_session.session_id;
      v_left := v_left - 1;
      return query select v_session.tenant, v_session.session_id, 'back'::text, 0;
      continue;
    end if;
    delete from gateway.session_events where ctid = any (array(
      select x.ctid from gateway.session_events x
        where x.tenant = v_session.tenant and x.session_id = v_session.session_id limit v_left));
    get diagnostics v_rows = row_count;
    v_deleted := v_deleted + v_rows;
    v_left := v_left - v_rows;
    if v_left > 0 then
      delete from gateway.messages where ctid = any (array(
        select m.ctid from gateway.messages m
          where m.tenant = v_session.tenant and m.session_id = v_session.session_id limit v_left));
      get diagnostics v_rows = row_count;
      v_deleted := v_deleted + v_rows;
      v_left := v_left - v_rows;
    end if;
    if v_left > 0 then
      delete from gateway.expiring_sessions e
        where e.tenant = v_session.tenant and e.session_id = v_session.session_id;
      v_left := v_left - 1;
      return query select v_session.tenant, v_session.session_id, 'forgotten'::text, v_deleted;
    else
      return query select v_session.tenant, v_session.session_id, 'begun'::text, v_deleted;
    end if;
  end loop;
end $$;

select app.protect_queue_functions('gateway', 'signalbox_gateway');

-- Down Migration

drop function gateway.forget_sessions;
drop function gateway.retire_sessions;
insert into gateway.sessions (tenant, session_id, persona_id, created_at, pruned_epoch, pruned_position)
  select tenant, session_id, persona_id, created_at, pruned_epoch, pruned_position from gateway.expiring_sessions
  on conflict do nothing;
drop table gateway.expiring_sessions;
drop policy prune on gateway.messages;
revoke select, delete on gateway.messages from signalbox_queue;
revoke insert, delete on gateway.sessions from signalbox_queue;
drop function gateway.prune_session_events;
drop function gateway.prune_idempotency_keys;
