import { newId } from '@signalbox/contracts/ids';
import type { ToolRequested } from '@signalbox/contracts/tool-requests';
import { expect, test } from 'vitest';
import { argumentsChecker } from './check-arguments.ts';
import { type CallToRun, type RunCallParts, runCall } from './run-call.ts';
import type { CallLimits } from './sandbox/verdict.ts';
import { type TenantTool, toolLookup } from './tool-lookup.ts';

const tool: TenantTool = {
  parameters: { type: 'object', properties: { text: { type: 'string' } }, additionalProperties: false },
  idempotent: true,
  timeoutMs: 500,
  version: '1',
};

function request(changes: Partial<ToolRequested> = {}): ToolRequested {
  return {
    call_id: 'a'.repeat(32),
    turn_id: newId(),
    session_id: newId(),
    step: 2,
    attempt: 1,
    tool: 'echo',
    arguments: { text: 'x' },
    deadline_at: new Date(Date.now() + 10_000).toISOString(),
    idempotency_key: 'k',
    ...changes,
  };
}

/** Runs with a pool that remembers what it was asked. */
async function run(changes: Partial<CallToRun> = {}, found: TenantTool | undefined = tool) {
  const asked: CallLimits[] = [];
  const keys: string[] = [];
  const parts: RunCallParts = {
    findTool: async () => found,
    checkArguments: argumentsChecker(),
    pool: {
      run: async ({ idempotency_key }, limits) => {
        keys.push(idempotency_key);
        asked.push(limits);
        return { outcome: 'ok', output: 'done', truncated: false };
      },
    },
    implemented: new Set(['echo']),
    limits: { timeoutMs: 2_000, cpuSeconds: 1, memoryMb: 64, outputBytes: 100 },
  };
  const signal = new AbortController().signal;
  const outcome = await runCall(parts, {
    tenant: 'acme',
    request: request(),
    attempt: 1,
    signal,
    ...changes,
  });
  return { outcome, asked, keys };
}

test('a call runs within the shortest of its bounds', async () => {
  expect((await run()).asked[0]?.wallMs).toBe(500);
  expect((await run({}, { ...tool, timeoutMs: 60_000 })).asked[0]?.wallMs).toBe(2_000);
  const soon = request({ deadline_at: new Date(Date.now() + 200).toISOString() });
  expect((await run({ request: soon })).asked[0]?.wallMs).toBeLessThanOrEqual(200);
});

test('a second try is made for an idempotent tool alone', async () => {
  const again = await run({ attempt: 2 });
  expect(again.outcome.outcome).toBe('ok');
  expect(again.keys).toEqual(['k']);
  const { outcome, asked } = await run({ attempt: 2 }, { ...tool, idempotent: false });
  expect(outcome).toMatchObject({ outcome: 'unknown', error_code: 'TOOL_OUTCOME_UNKNOWN', output: '' });
  expect(asked).toEqual([]);
});

test('a second try past its deadline is unknown and not late: it may have run', async () => {
  const late = request({ deadline_at: '2020-01-01T00:00:00Z' });
  const once = { ...tool, idempotent: false };
  expect((await run({ attempt: 2, request: late }, once)).outcome.outcome).toBe('unknown');
  expect((await run({ attempt: 1, request: late }, once)).outcome.error_code).toBe('TIMEOUT');
});

test('arguments are checked before anything runs', async () => {
  const wrong = request({ arguments: { text: 1, more: true } });
  const { outcome, asked } = await run({ request: wrong });
  expect(outcome).toMatchObject({ outcome: 'invalid_arguments' });
  expect(outcome.message).toContain('/text must be string');
  expect(outcome.message).toContain('(more)');
  expect(asked).toEqual([]);
});

test('a tool whose schema is none is an error of the tool', async () => {
  const { outcome } = await run({}, { ...tool, parameters: { type: 'nonsense' } });
  expect(outcome).toMatchObject({ outcome: 'error', error_code: 'TOOL_FAILED' });
});

test('inherited names are no tools and no arguments', async () => {
  expect((await run({ request: request({ tool: 'constructor' }) })).outcome.outcome).toBe('unknown_tool');
  const polluted: unknown = JSON.parse('{"__proto__": {"text": "x"}}');
  const check = argumentsChecker()(
    'k',
    { ...tool, parameters: { type: 'object', required: ['text'] } },
    polluted,
  );
  expect(check.kind).toBe('wrong');
});

test('a check is compiled once for a version of a tool', () => {
  const check = argumentsChecker();
  expect(check('acme echo', tool, { text: 'x' }).kind).toBe('ok');
  const stricter = { ...tool, version: '2', parameters: { type: 'object', maxProperties: 0 } };
  expect(check('acme echo', stricter, { text: 'x' }).kind).toBe('wrong');
});

test('a tool is read again after two seconds, and a disabled one is none', async () => {
  let reads = 0;
  let now = 0;
  const row = { parameters: {}, idempotent: true, timeout_ms: 5, version: '1' };
  const query = async <R>(): Promise<R[]> => {
    reads += 1;
    return JSON.parse(JSON.stringify([{ ...row, enabled: reads === 1 }]));
  };
  const find = toolLookup({ query }, () => now);
  expect(await find('acme', 'echo')).toMatchObject({ timeoutMs: 5 });
  now = 1_999;
  expect(await find('acme', 'echo')).toBeDefined();
  expect(reads).toBe(1);
  now = 2_001;
  expect(await find('acme', 'echo')).toBeUndefined();
});
