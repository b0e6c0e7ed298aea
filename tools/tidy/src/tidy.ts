import { type Finding, fileRules } from './rules.ts';
import { readWorkspace, type Workspace } from './workspace.ts';
import { outsideMentions, unknownRooms, unreferencedFiles } from './workspace-rules.ts';

/** Everything the house rules find wrong in a workspace that was read, in the order of files and lines. */
export function findUntidy(workspace: Workspace): Finding[] {
  const findings = [
    ...workspace.files.flatMap((file) => fileRules.flatMap((rule) => rule(file, workspace))),
    ...unreferencedFiles(workspace),
    ...outsideMentions(workspace),
    ...unknownRooms(workspace),
  ];
  return findings.sort((a, b) => a.file.localeCompare(b.file) || a.line - b.line);
}

export function tidy(root: string): Finding[] {
  return findUntidy(readWorkspace(root));
}
