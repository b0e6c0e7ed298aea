-- Up Migration

-- Open tasks of each tenant, counted up to p_limit. Read a few times a second, not once a request.
create function delegation_gateway.open_tasks(p_tenants text[], p_limit int)
returns table (tenant text, open_tasks int) language plpgsql as $$
#variable_conflict use_column
declare v_tenant text;
begin
  foreach v_tenant in array p_tenants loop
    perform set_config('app.tenant', v_tenant, true);
    return query
      select v_tenant, count(*)::int from (
        select from delegation_gateway.tasks t
          where t.tenant = v_tenant and t.status in ('queued', 'running', 'input_required')
          limit p_limit) counted;
  end loop;
end $$;

-- The place of the last event of each task: what a second's look asks for all tasks that are followed. Rows of a tenant
-- stand together; p_upto[n] is the index of the last row of p_tenants[n].
create function delegation_gateway.last_places(p_tenants text[], p_upto int[], p_task_ids uuid[])
returns table (ord int, epoch int, place bigint) language plpgsql
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_from int := 1;
  v_step int;
begin
  for v_step in 1 .. cardinality(p_tenants) loop
    perform set_config('app.tenant', p_tenants[v_step], true);
    return query
      select o, t.last_epoch, t.last_position
        from generate_series(v_from, p_upto[v_step]) o
        cross join lateral (
          select k.last_epoch, k.last_position from delegation_gateway.tasks k
            where k.tenant = p_tenants[v_step] and k.task_id = p_task_ids[o] limit 1) t
        where t.last_epoch is not null;
    v_from := p_upto[v_step] + 1;
  end loop;
end $$;

revoke all on function delegation_gateway.open_tasks, delegation_gateway.last_places from public;
grant execute on function delegation_gateway.open_tasks, delegation_gateway.last_places to signalbox_delegation_gateway;

-- What sees every tenant's rows belongs to signalbox_queue, as the queue functions do.
create policy prune on delegation_gateway.tasks to signalbox_queue using (true) with check (true);
create policy prune on delegation_gateway.task_events to signalbox_queue using (true) with check (true);
grant select, update, delete on delegation_gateway.tasks to signalbox_queue;
grant select, delete on delegation_gateway.task_events to signalbox_queue;

-- Tasks by status for the gauge: open ones as they are, ended ones of the last hour, each counted up to p_limit.
create function delegation_gateway.count_tasks(p_limit int)
returns table (status text, tasks int)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare v_status text;
begin
  foreach v_status in array array['queued', 'running', 'input_required'] loop
    return query
      select v_status, count(*)::int from (
        select from delegation_gateway.tasks t where t.status = v_status and t.ended_at is null limit p_limit) counted;
  end loop;
  return query
    select wanted.status, coalesce(found.tasks, 0)
      from unnest(array['completed', 'failed', 'cancelled', 'expired']) wanted(status)
      left join (
        select ended.status, count(*)::int as tasks from (
          select t.status from delegation_gateway.tasks t
            where t.ended_at > now() - interval '1 hour' limit p_limit) ended
          group by ended.status) found on found.status = wanted.status;
end $$;

-- Forgets at most p_limit ended tasks with their events, and at most p_limit events of tasks that are still open, past
-- p_keep. A task remembers the highest place it lost. Rows are locked in key order. Answers how many rows went.
create function delegation_gateway.prune(p_keep interval, p_limit int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_events int;
  v_ended int;
  v_tasks int;
begin
  with old as (
    select tenant, task_id, epoch, position from delegation_gateway.task_events
      where stored_at < now() - p_keep limit p_limit
  ), locked as (
    select t.tenant, t.task_id from delegation_gateway.tasks t
      where (t.tenant, t.task_id) in (select tenant, task_id from old)
      order by t.tenant, t.task_id for update
  ), gone as (
    delete from delegation_gateway.task_events e using old, locked
      where (e.tenant, e.task_id, e.epoch, e.position) = (old.tenant, old.task_id, old.epoch, old.position)
        and (locked.tenant, locked.task_id) = (old.tenant, old.task_id)
      returning e.tenant, e.task_id, e.epoch, e.position
  ), highest as (
    select distinct on (tenant, task_id) tenant, task_id, epoch, position
      from gone order by tenant, task_id, epoch desc, position desc
  ), marked as (
    update delegation_gateway.tasks t set pruned_epoch = h.epoch, pruned_position = h.position
      from highest h
      where (t.tenant, t.task_id) = (h.tenant, h.task_id)
        and (t.pruned_epoch is null or (h.epoch, h.position) > (t.pruned_epoch, t.pruned_position))
  )
  select count(*)::int into v_events from gone;

  with old as (
    select tenant, task_id from delegation_gateway.tasks
      where ended_at < now() - p_keep limit p_limit
  ), locked as (
    select t.tenant, t.task_id from delegation_gateway.tasks t
      where (t.tenant, t.task_id) in (select tenant, task_id from old)
      order by t.tenant, t.task_id for update
  ), events as (
    delete from delegation_gateway.task_events e using locked
      where (e.tenant, e.task_id) = (locked.tenant, locked.task_id) returning 1
  ), tasks as (
    delete from delegation_gateway.tasks t using locked
      where (t.tenant, t.task_id) = (locked.tenant, locked.task_id) returning 1
  )
  select (select count(*) from events), (select count(*) from tasks) into v_ended, v_tasks;
  return v_events + v_ended + v_tasks;
end $$;

select app.protect_queue_functions('delegation_gateway', 'signalbox_delegation_gateway');

-- Down Migration

drop function delegation_gateway.prune, delegation_gateway.count_tasks, delegation_gateway.last_places,
  delegation_gateway.open_tasks;
drop policy prune on delegation_gateway.tasks;
drop policy prune on delegation_gateway.task_events;
