-- Up Migration

-- Stores the events (no deltas) of one batch of conversation.outbound; each row of the arrays is one record, rows of a
-- tenant stand together. A terminal event closes its turn. Outcome of each row:
--   stored   new
--   known    stored before under this very position: a redelivery, to be appended to the stream again
--   repeat   stored before under another position: the producer sent it twice, to be left out of the stream
--   clash    another event holds this position: the topic was made anew and STREAM_EPOCH was not raised
--   failed   the tenant's rows were not stored; detail is the SQLSTATE
create function gateway.store_events(
  p_tenants text[], p_upto int[], p_epoch int,
  p_session_ids uuid[], p_positions bigint[], p_event_ids uuid[], p_turn_ids uuid[], p_types text[], p_terminal boolean[],
  p_data text[]
) returns table (ord int, outcome text, detail text) language plpgsql
  set plan_cache_mode = force_generic_plan set enable_seqscan = off -- why: gateway.accept
as $$
declare
  v_tenant text;
  v_from int := 1;
  v_to int;
  v_step int;
  v_failed text;
  v_outcomes text[];
begin
  for v_step in 1 .. cardinality(p_tenants) loop
    v_tenant := p_tenants[v_step];
    v_to := p_upto[v_step];
    v_failed := null;
    v_outcomes := null;
    begin
      perform set_config('app.tenant', v_tenant, true);
      with stored as (
        insert into gateway.session_events (tenant, session_id, epoch, position, event_id, event_type, data)
          select v_tenant, p_session_ids[o], p_epoch, p_positions[o], p_event_ids[o], p_types[o], p_data[o]
            from generate_series(v_from, v_to) o
            order by p_session_ids[o], p_positions[o]
          on conflict do nothing
          returning session_id, position)
      select array_agg(case when s.position is null then null else 'stored' end order by o)
        into v_outcomes
        from generate_series(v_from, v_to) o
        left join stored s on s.session_id = p_session_ids[o] and s.position = p_positions[o];

      if array_position(v_outcomes, null) is not null then
        select array_agg(coalesce(v_outcomes[o - v_from + 1],
                 case when e.event_id is null then 'clash'
                      when e.epoch = p_epoch and e.position = p_positions[o] then 'known'
                      else 'repeat' end) order by o)
          into v_outcomes
          from generate_series(v_from, v_to) o
          left join gateway.session_events e on e.tenant = v_tenant and e.event_id = p_event_ids[o];
      end if;

      if true = any (p_terminal[v_from:v_to]) then
        -- Locked in key order before the update: two owners of a partition may be here at once during a rebalance.
        perform from gateway.messages m
          where m.tenant = v_tenant and (m.session_id, m.turn_id) in (
            select p_session_ids[o], p_turn_ids[o] from generate_series(v_from, v_to) o
              where p_terminal[o] and v_outcomes[o - v_from + 1] in ('stored', 'known'))
          order by m.session_id, m.turn_id for no key update;
        update gateway.messages m
          set ended_at = clock_timestamp(), end_epoch = p_epoch, end_position = p_positions[o]
          from generate_series(v_from, v_to) o
          where p_terminal[o] and v_outcomes[o - v_from + 1] in ('stored', 'known')
            and m.tenant = v_tenant and m.session_id = p_session_ids[o] and m.turn_id = p_turn_ids[o]
            and m.ended_at is null;
      end if;
    exception when others then
      v_failed := sqlstate;
    end;
    return query
      select o, case when v_failed is null then v_outcomes[o - v_from + 1] else 'failed' end, v_failed
        from generate_series(v_from, v_to) o;
    v_from := v_to + 1;
  end loop;
end $$;

-- Looks sessions up for streams that open in one tick; rows of a tenant stand together. A session that is not the
-- tenant's gives no row. start_*: the last event stored before the oldest open turn was accepted (the newest turn, when
-- none is open): all of that turn's events come after it, however late its reader connects. Both are this database's
-- clock, and an event of a turn is stored only after the turn's own commit. Null: from the beginning.
create function gateway.open_streams(p_tenants text[], p_upto int[], p_session_ids uuid[], p_want_start boolean[])
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

-- The copy of tool.catalog: rows of a tenant stand together, a record older than the row is ignored. Null data removes.
create function gateway.store_tools(
  p_tenants text[], p_upto int[], p_names text[], p_offsets bigint[], p_values json[]
) returns void language plpgsql as $$
declare
  v_from int := 1;
  v_to int;
  v_step int;
begin
  for v_step in 1 .. cardinality(p_tenants) loop
    v_to := p_upto[v_step];
    perform set_config('app.tenant', p_tenants[v_step], true);
    insert into gateway.tools as t (
        tenant, name, description, parameters, idempotent, timeout_ms, enabled, version, removed, catalog_offset)
      select p_tenants[v_step], n.name, coalesce(n.value ->> 'description', ''), coalesce(n.value -> 'parameters', '{}'),
             coalesce((n.value ->> 'idempotent')::boolean, false), coalesce((n.value ->> 'timeout_ms')::int, 0),
             coalesce((n.value ->> 'enabled')::boolean, false), coalesce((n.value ->> 'version')::int, 0),
             n.value is null, n.catalog_offset
        from (select distinct on (p_names[o]) p_names[o] as name, p_offsets[o] as catalog_offset, p_values[o] as value
                from generate_series(v_from, v_to) o
                order by p_names[o], p_offsets[o] desc) n
      on conflict (tenant, name) do update set
        description = excluded.description, parameters = excluded.parameters, idempotent = excluded.idempotent,
        timeout_ms = excluded.timeout_ms, enabled = excluded.enabled, version = excluded.version,
        removed = excluded.removed, catalog_offset = excluded.catalog_offset
        where t.catalog_offset < excluded.catalog_offset;
    v_from := v_to + 1;
  end loop;
end $$;

revoke all on function gateway.store_events, gateway.open_streams, gateway.store_tools from public;
grant execute on function gateway.store_events, gateway.open_streams, gateway.store_tools to signalbox_gateway;

-- Down Migration

drop function gateway.store_events;
drop function gateway.open_streams;
drop function gateway.store_tools;
