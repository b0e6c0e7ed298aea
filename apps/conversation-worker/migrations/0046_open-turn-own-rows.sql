-- Up Migration

-- As before, and `own`: the last row of the session's stream that waits for this process itself. It may be one that the
-- process does not know of, because the answer to its commit was lost.
create or replace function conversation_worker.open_turn(
  p_owner uuid, p_tenant text, p_key text, p_id uuid, p_payload jsonb, p_attempt int, p_history_tokens int)
  returns jsonb
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_session uuid := (p_payload ->> 'session_id')::uuid;
  v_persona conversation_worker.personas;
  v_last conversation_worker.steps;
  v_from bigint;
  v_started timestamptz;
  v_profiles jsonb;
  v_tools jsonb;
  v_history jsonb;
  v_steps jsonb;
begin
  perform set_config('app.tenant', p_tenant, true);
  select * into v_persona from conversation_worker.personas p
    where p.tenant = p_tenant and p.persona_id = p_payload ->> 'persona_id';
  select * into v_last from conversation_worker.steps s
    where s.tenant = p_tenant and s.turn_id = p_id order by s.step desc limit 1;
  if v_last.step is null then
    select min(w.seq) into v_from from (
      select h.seq, sum(h.tokens) over (order by h.seq desc) as total from (
        select r.seq, r.tokens from conversation_worker.history r
        where r.tenant = p_tenant and r.session_id = v_session order by r.seq desc limit 200) h) w
      where w.total <= coalesce((v_persona.limits ->> 'history_tokens')::bigint, p_history_tokens);
    insert into conversation_worker.steps (tenant, turn_id, step, kind, operation_key, input, attempt)
    values (p_tenant, p_id, 0, 'model',
      encode(sha256(convert_to(concat_ws(' ', p_id, 0, p_payload ->> 'event_id', v_from), 'UTF8')), 'hex'),
      jsonb_build_object('history_from', v_from), p_attempt);
    v_started := clock_timestamp();
  else
    if v_last.outcome is not null then
      perform conversation_worker.open_next_step(p_tenant, p_id, p_attempt);
    end if;
    select (s.input ->> 'history_from')::bigint, s.started_at into v_from, v_started from conversation_worker.steps s
      where s.tenant = p_tenant and s.turn_id = p_id and s.step = 0;
  end if;
  -- Small statements with kept plans: as subqueries of one they cost twice that.
  select jsonb_agg(to_jsonb(m) - 'tenant') into v_profiles from conversation_worker.model_profiles m
    where m.tenant = p_tenant;
  if v_persona.tools <> '{}' then
    select jsonb_agg(jsonb_build_object('name', t.name, 'description', t.description,
        'parameters', t.parameters, 'timeout_ms', t.timeout_ms) order by t.name) into v_tools
      from conversation_worker.tools t where t.tenant = p_tenant and t.name = any(v_persona.tools) and t.enabled;
  end if;
  if v_from is not null then
    select jsonb_agg(jsonb_build_object('seq', h.seq, 'messages', h.messages) order by h.seq) into v_history
      from conversation_worker.history h
      where h.tenant = p_tenant and h.session_id = v_session and h.seq >= v_from and h.turn_id <> p_id;
  end if;
  select jsonb_agg(jsonb_build_object('step', s.step, 'kind', s.kind, 'input', s.input,
      'operation_key', s.operation_key, 'outcome', s.outcome, 'attempt', s.attempt,
      'started_ms', extract(epoch from s.started_at) * 1000, 'finished_ms', extract(epoch from s.finished_at) * 1000)
      order by s.step) into v_steps
    from conversation_worker.steps s where s.tenant = p_tenant and s.turn_id = p_id;
  return jsonb_build_object(
    'elapsed_ms', extract(epoch from clock_timestamp() - v_started) * 1000,
    'foreign', messaging.outbox_foreign(p_owner, 'conversation.outbound', p_key),
    'own', messaging.outbox_last_own(p_owner, 'conversation.outbound', p_key),
    'persona', case when v_persona.persona_id is null then null else jsonb_build_object(
      'system_prompt', v_persona.system_prompt, 'model_profile', v_persona.model_profile, 'limits', v_persona.limits) end,
    'profiles', coalesce(v_profiles, '[]'), 'tools', coalesce(v_tools, '[]'),
    'history', coalesce(v_history, '[]'), 'steps', coalesce(v_steps, '[]'));
end $$;

-- Down Migration
create or replace function conversation_worker.open_turn(
  p_owner uuid, p_tenant text, p_key text, p_id uuid, p_payload jsonb, p_attempt int, p_history_tokens int)
  returns jsonb
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_session uuid := (p_payload ->> 'session_id')::uuid;
  v_persona conversation_worker.personas;
  v_last conversation_worker.steps;
  v_from bigint;
  v_started timestamptz;
  v_profiles jsonb;
  v_tools jsonb;
  v_history jsonb;
  v_steps jsonb;
begin
  perform set_config('app.tenant', p_tenant, true);
  select * into v_persona from conversation_worker.personas p
    where p.tenant = p_tenant and p.persona_id = p_payload ->> 'persona_id';
  select * into v_last from conversation_worker.steps s
    where s.tenant = p_tenant and s.turn_id = p_id order by s.step desc limit 1;
  if v_last.step is null then
    select min(w.seq) into v_from from (
      select h.seq, sum(h.tokens) over (order by h.seq desc) as total from (
        select r.seq, r.tokens from conversation_worker.history r
        where r.tenant = p_tenant and r.session_id = v_session order by r.seq desc limit 200) h) w
      where w.total <= coalesce((v_persona.limits ->> 'history_tokens')::bigint, p_history_tokens);
    insert into conversation_worker.steps (tenant, turn_id, step, kind, operation_key, input, attempt)
    values (p_tenant, p_id, 0, 'model',
      encode(sha256(convert_to(concat_ws(' ', p_id, 0, p_payload ->> 'event_id', v_from), 'UTF8')), 'hex'),
      jsonb_build_object('history_from', v_from), p_attempt);
    v_started := clock_timestamp();
  else
    if v_last.outcome is not null then
      perform conversation_worker.open_next_step(p_tenant, p_id, p_attempt);
    end if;
    select (s.input ->> 'history_from')::bigint, s.started_at into v_from, v_started from conversation_worker.steps s
      where s.tenant = p_tenant and s.turn_id = p_id and s.step = 0;
  end if;
  -- Small statements with kept plans: as subqueries of one they cost twice that.
  select jsonb_agg(to_jsonb(m) - 'tenant') into v_profiles from conversation_worker.model_profiles m
    where m.tenant = p_tenant;
  if v_persona.tools <> '{}' then
    select jsonb_agg(jsonb_build_object('name', t.name, 'description', t.description,
        'parameters', t.parameters, 'timeout_ms', t.timeout_ms) order by t.name) into v_tools
      from conversation_worker.tools t where t.tenant = p_tenant and t.name = any(v_persona.tools) and t.enabled;
  end if;
  if v_from is not null then
    select jsonb_agg(jsonb_build_object('seq', h.seq, 'messages', h.messages) order by h.seq) into v_history
      from conversation_worker.history h
      where h.tenant = p_tenant and h.session_id = v_session and h.seq >= v_from and h.turn_id <> p_id;
  end if;
  select jsonb_agg(jsonb_build_object('step', s.step, 'kind', s.kind, 'input', s.input,
      'operation_key', s.operation_key, 'outcome', s.outcome, 'attempt', s.attempt,
      'started_ms', extract(epoch from s.started_at) * 1000, 'finished_ms', extract(epoch from s.finished_at) * 1000)
      order by s.step) into v_steps
    from conversation_worker.steps s where s.tenant = p_tenant and s.turn_id = p_id;
  return jsonb_build_object(
    'elapsed_ms', extract(epoch from clock_timestamp() - v_started) * 1000,
    'foreign', messaging.outbox_foreign(p_owner, 'conversation.outbound', p_key),
    'persona', case when v_persona.persona_id is null then null else jsonb_build_object(
      'system_prompt', v_persona.system_prompt, 'model_profile', v_persona.model_profile, 'limits', v_persona.limits) end,
    'profiles', coalesce(v_profiles, '[]'), 'tools', coalesce(v_tools, '[]'),
    'history', coalesce(v_history, '[]'), 'steps', coalesce(v_steps, '[]'));
end $$;
