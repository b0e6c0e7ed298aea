import type { ToolRequested } from '@signalbox/contracts/tool-requests';
import type { ToolOutcome, ToolOutcomeReported } from '@signalbox/contracts/tool-results';
import { outcomeValue } from './answers.ts';
import type { CheckArguments } from './check-arguments.ts';
import type { SandboxPool } from './sandbox/sandbox-pool.ts';
import type { Verdict } from './sandbox/verdict.ts';
import type { FindTool } from './tool-lookup.ts';

export interface RunCallParts {
  readonly findTool: FindTool;
  readonly checkArguments: CheckArguments;
  readonly pool: Pick<SandboxPool, 'run'>;
  /** Names of the tools that this release can run. */
  readonly implemented: ReadonlySet<string>;
  readonly limits: {
    readonly timeoutMs: number;
    readonly cpuSeconds: number;
    readonly memoryMb: number;
    readonly outputBytes: number;
  };
}

export interface CallToRun {
  readonly tenant: string;
  readonly request: ToolRequested;
  /** Tries, this one included. */
  readonly attempt: number;
  /** Aborts when the lease is lost, the worker stops or the call is cancelled: the child is killed and this rejects. */
  readonly signal: AbortSignal;
}

const errorCodes: Readonly<Record<ToolOutcome, string | undefined>> = {
  ok: undefined,
  error: 'TOOL_FAILED',
  invalid_arguments: 'TOOL_INVALID_ARGUMENTS',
  unknown_tool: 'TOOL_UNKNOWN',
  wall_limit: 'TOOL_WALL_LIMIT',
  cpu_limit: 'TOOL_CPU_LIMIT',
  memory_limit: 'TOOL_MEMORY_LIMIT',
  output_limit: 'TOOL_OUTPUT_LIMIT',
  cancelled: 'TOOL_CANCELLED',
  unknown: 'TOOL_OUTCOME_UNKNOWN',
};

/**
 * What becomes of a call: the tool is looked up, its arguments are checked, it runs within its limits. Every end is an
 * outcome that the model is told; rejects only with DATABASE_UNAVAILABLE, or when the signal aborts.
 *
 * A second try of a call whose first one may have run is made only for an idempotent tool: else the outcome is unknown,
 * and saying so is all that can honestly be done.
 */
export async function runCall(parts: RunCallParts, call: CallToRun): Promise<ToolOutcomeReported> {
  const { findTool, checkArguments, pool, implemented, limits } = parts;
  const { tenant, request, attempt, signal } = call;
  const { tool: name, arguments: args } = request;
  const startedAt = performance.now();
  const end = (outcome: ToolOutcome, message: string | undefined, verdict?: Verdict, code?: string) =>
    outcomeValue(request, {
      outcome,
      output: verdict?.output ?? '',
      truncated: verdict?.truncated ?? false,
      duration_ms: Math.round((performance.now() - startedAt) * 10) / 10,
      ...optional('error_code', code ?? errorCodes[outcome]),
      ...optional('message', message),
    });

  const tool = implemented.has(name) ? await findTool(tenant, name) : undefined;
  if (attempt > 1 && tool?.idempotent !== true) {
    return end('unknown', 'the process that ran this call died; whether it took effect is not known');
  }
  const leftMs = Date.parse(request.deadline_at) - Date.now();
  if (leftMs <= 0) {
    return end('error', 'the deadline had passed before the call could run', undefined, 'TIMEOUT');
  }
  if (tool === undefined) {
    return end('unknown_tool', `there is no tool ${name}`);
  }
  const check = checkArguments(`${tenant} ${name}`, tool, args);
  if (check.kind !== 'ok') {
    return end(check.kind === 'wrong' ? 'invalid_arguments' : 'error', check.message);
  }
  // Policy (allow, deny, ask a person) decides here, once it is there: before anything runs, after all that can be
  // refused without it.
  const verdict = await pool.run(
    { tool: name, arguments: args, idempotency_key: request.idempotency_key },
    { ...limits, wallMs: Math.min(limits.timeoutMs, tool.timeoutMs, leftMs) },
    { signal },
  );
  return end(verdict.outcome, verdict.message, verdict);
}

function optional<K extends string>(key: K, value: string | undefined): { [P in K]?: string } {
  const field: { [P in K]?: string } = {};
  if (value !== undefined) {
    field[key] = value;
  }
  return field;
}
