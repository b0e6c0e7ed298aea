-- Up Migration

-- A turn that a delegated task asked for runs in a session that no client has made: there is no row of it in
-- gateway.sessions, and no message. Its events come here all the same, are kept as those of any other, and whoever knows the
-- session's id may follow them: a session of the tenant that has events and no row is such a one. It can be read, and
-- neither posted to nor acted on. One that is being forgotten (0038) is none.
create function gateway.has_own_events(p_tenant text, p_session_id uuid) returns boolean
language sql stable as $$
  select exists (select from gateway.session_events x where x.tenant = p_tenant and x.session_id = p_session_id)
     and not exists (select from gateway.expiring_sessions e where e.tenant = p_tenant and e.session_id = p_session_id)
$$;

-- gateway.open_streams of 0032, which finds them too: they begin with their first event.
create or replace function gateway.open_streams(p_tenants text[], p_upto int[], p_session_ids uuid[], p_want_start boolean[])
returns table (ord int, start_epoch int, start_position bigint, pruned_epoch int, pruned_position bigint)
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off -- why: gateway.accept
as $$
#variable_conflict use_column
declare
  v_tenant text;
  v_from int := 1;
  v_to int;
  v_step int;
begin
  for v_step in 1 .. cardinality(p_tenants) loop
    v_tenant := p_tenants[v_step];
    v_to := p_upto[v_step];
    perform set_config('app.tenant', v_tenant, true);
    return query
      select o, e.epoch, e.position, s.pruned_epoch, s.pruned_position
        from generate_series(v_from, v_to) o
        left join gateway.sessions s on s.tenant = v_tenant and s.session_id = p_session_ids[o]
        left join lateral (
          select coalesce(
            (select min(m.accepted_at) from gateway.messages m
               where m.tenant = v_tenant and m.session_id = s.session_id and m.ended_at is null),
            (select m.accepted_at from gateway.messages m
               where m.tenant = v_tenant and m.session_id = s.session_id order by m.turn_id desc limit 1)) as since
        ) t on p_want_start[o]
        left join lateral (
          select x.epoch, x.position from gateway.session_events x
            where x.tenant = v_tenant and x.session_id = s.session_id and x.stored_at < t.since
            order by x.epoch desc, x.position desc limit 1
        ) e on true
        where s.session_id is not null or gateway.has_own_events(v_tenant, p_session_ids[o]);
    v_from := v_to + 1;
  end loop;
end $$;

revoke all on function gateway.has_own_events from public;
grant execute on function gateway.has_own_events to signalbox_gateway;

-- Down Migration

create or replace function gateway.open_streams(p_tenants text[], p_upto int[], p_session_ids uuid[], p_want_start boolean[])
returns table (ord int, start_epoch int, start_position bigint, pruned_epoch int, pruned_position bigint)
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off -- why: gateway.accept
as $$
#variable_conflict use_column
declare
  v_tenant text;
  v_from int := 1;
  v_to int;
  v_step int;
begin
  for v_step in 1 .. cardinality(p_tenants) loop
    v_tenant := p_tenants[v_step];
    v_to := p_upto[v_step];
    perform set_config('app.tenant', v_tenant, true);
    return query
      select o, e.epoch, e.position, s.pruned_epoch, s.pruned_position
        from generate_series(v_from, v_to) o
        join gateway.sessions s on s.tenant = v_tenant and s.session_id = p_session_ids[o]
        left join lateral (
          select coalesce(
            (select min(m.accepted_at) from gateway.messages m
               where m.tenant = v_tenant and m.session_id = s.session_id and m.ended_at is null),
            (select m.accepted_at from gateway.messages m
               where m.tenant = v_tenant and m.session_id = s.session_id order by m.turn_id desc limit 1)) as since
        ) t on p_want_start[o]
        left join lateral (
          select x.epoch, x.position from gateway.session_events x
            where x.tenant = v_tenant and x.session_id = s.session_id and x.stored_at < t.since
            order by x.epoch desc, x.position desc limit 1
        ) e on true;
    v_from := v_to + 1;
  end loop;
end $$;
drop function gateway.has_own_events;
