import type { ToolOutcome } from '@signalbox/contracts/tool-results';

/** What became of a call in the sandbox. */
export interface Verdict {
  readonly outcome: Extract<
    ToolOutcome,
    'ok' | 'error' | 'wall_limit' | 'cpu_limit' | 'memory_limit' | 'output_limit'
  >;
  /** What the tool said; at a limit what there was of it. */
  readonly output: string;
  readonly truncated: boolean;
  /** Why it is not ok. */
  readonly message?: string;
}

export interface CallLimits {
  /** From the moment the call is given to its process. */
  readonly wallMs: number;
  /** CPU time of the process, its start (about 0.05 s) included; whole seconds. */
  readonly cpuSeconds: number;
  /** What the call may use beyond the idle runtime. */
  readonly memoryMb: number;
  /** Output, error output and progress together. */
  readonly outputBytes: number;
}

/** Why the parent killed a child. */
export type Killed = 'wall_limit' | 'memory_limit' | 'output_limit' | 'protocol' | 'stop';

export interface Ending {
  readonly killed: Killed | undefined;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The end of what it wrote to stderr. */
  readonly errorText: string;
  /** CPU time when it was last looked at. */
  readonly cpuSeconds: number;
  /** What there is of its output. */
  readonly output: string;
}

/**
 * Names what ended a child that gave no answer. SIGXCPU is the soft CPU limit; a child that ignores it meets the hard
 * one, a bare SIGKILL, told from a stranger's by the CPU time it had. V8 aborts when its heap is full and says so.
 */
export function judgeEnding(ending: Ending, limits: CallLimits): Verdict {
  const { killed, code, signal, errorText, cpuSeconds, output } = ending;
  const at = (outcome: Verdict['outcome'], message: string): Verdict => ({
    outcome,
    output,
    truncated: output !== '',
    message,
  });
  if (killed === 'wall_limit') {
    return at('wall_limit', `still running after ${Math.round(limits.wallMs)} ms`);
  }
  if (killed === 'output_limit') {
    return at('output_limit', `wrote more than ${limits.outputBytes} bytes`);
  }
  if (killed === 'memory_limit' || /heap out of memory|Array buffer allocation failed/.test(errorText)) {
    return at('memory_limit', `used more than ${limits.memoryMb} MB`);
  }
  if (
    signal === 'SIGXCPU' ||
    (signal === 'SIGKILL' && killed === undefined && cpuSeconds >= limits.cpuSeconds)
  ) {
    return at('cpu_limit', `used more than ${limits.cpuSeconds} s of CPU`);
  }
  if (killed === 'protocol') {
    return at('error', "the tool's process answered what is no answer");
  }
  return at('error', `the tool's process ended without an answer (${signal ?? `code ${code}`})`);
}
