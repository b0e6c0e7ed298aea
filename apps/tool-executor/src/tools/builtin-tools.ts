import { calculator } from './calculator.ts';
import { echo } from './echo.ts';
import { timestamp } from './timestamp.ts';
import type { Tool } from './tool.ts';

/** The tools of this service. The sandbox loads this module by its path, so it imports nothing but tools. */
export const tools: readonly Tool[] = [echo, timestamp, calculator];
