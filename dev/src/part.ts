import type { Keeper } from './keeper.ts';
import type { PartProcess } from './part-process.ts';
import type { Progress } from './progress.ts';

/** What every part is started with. */
export interface PartSetting {
  /** The stack's data folder; each part has a folder of its name in it. */
  readonly dataDir: string;
  /** Fetched jars, shared by all data folders of the checkout. */
  readonly jarsDir: string;
  /** First port to try; 0 for any free one. */
  readonly port: number;
  /** Data of one test run: nothing is flushed to disk. */
  readonly ephemeral: boolean;
  readonly keeper: Keeper;
  readonly progress: Progress;
  /** Aborts when the start is given up (Ctrl-C). */
  readonly signal?: AbortSignal | undefined;
}

/** A started part that answers. */
export interface Part {
  readonly process: PartProcess;
  readonly port: number;
}
