export interface ToolContext {
  /** The same in every try of one call, after a crash too, and no other call's: for where the effect is. */
  readonly idempotencyKey: string;
  /** Tells the caller how far the call is; shown, never part of the output. */
  progress(text: string): void;
}

/**
 * A tool as this service has it: what the catalog says of it, and what runs in the sandbox. `run` gets arguments that
 * satisfy `parameters`, returns what the model is given, and throws ToolError for what the caller did wrong.
 */
export interface Tool {
  readonly name: string;
  readonly description: string;
  /** JSON Schema (2020-12) of the arguments. */
  readonly parameters: Readonly<Record<string, unknown>>;
  /** May run again for the same call when a crash hid what became of it. */
  readonly idempotent: boolean;
  readonly timeoutMs: number;
  run(args: Readonly<Record<string, unknown>>, context: ToolContext): string | Promise<string>;
}

/** A failure that the model may read and answer to. */
export class ToolError extends Error {
  override readonly name = 'ToolError';
}
